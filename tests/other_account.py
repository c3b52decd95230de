"""Processes of another account of this machine, which tests of local attackers start."""

import os
import shutil
import subprocess
import sys

import pytest

NOBODY = 65534
needs_other_account = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="to start a process of another account needs root and setpriv",
)
# Status of the answer to a POST, by the standard library only; "refused" where there is no connection.
_POST = """
import http.client, ssl, sys
port, path, authority = int(sys.argv[1]), sys.argv[2], sys.stdin.read()
if authority:
    context = ssl.create_default_context(cadata=authority)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
else:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
connection.request("POST", path, b"", {"content-type": "application/x-protobuf", "x-forwarded-for": "127.0.0.1"})
print(connection.getresponse().status)
"""


def run_as(account: int | None, code: str, *arguments: object, text: str = "") -> str:
    """What a Python program prints, run as this account (by its number), or as the test's own."""
    become = [] if account is None else ["setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups"]
    done = subprocess.run(
        [*become, os.path.realpath(sys.executable), "-I", "-c", code, *map(str, arguments)],
        input=text, capture_output=True, text=True, timeout=120, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def posted(port: int, path: str, *, account: int | None = None, authority: str = "") -> int:
    """The status with which a server on loopback answers an empty POST of this account."""
    return int(run_as(account, _POST, port, path, text=authority))
