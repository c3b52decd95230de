"""Run `recsys-fed` in this process, or several command lines in one child: imports are most of a short command."""

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

import pytest

from recsys_fed import cli

_RUNNER = """
import json, sys
from recsys_fed import cli
for line in json.loads(sys.argv[1]):
    sys.argv = ["recsys-fed", *line]
    try:
        cli.main()
    except SystemExit as stop:
        print("exit", stop.code, flush=True)
"""


def run_in_a_child(lines, *, env):
    """Exit code and standard output of each command line, as bytes, and standard error of all."""
    texts = json.dumps([[str(word) for word in line] for line in lines])
    command = [sys.executable, "-c", _RUNNER, texts]
    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=600)
    *parts, rest = re.split(rb"^exit (\d+)\n", done.stdout, flags=re.MULTILINE)
    assert rest == b"", done.stderr.decode("utf-8", "replace")
    outs, codes = parts[::2], [int(code) for code in parts[1::2]]
    assert len(codes) == len(lines), done.stderr.decode("utf-8", "replace")
    return list(zip(codes, outs, strict=True)), done.stderr


def run_command(*arguments):
    """Exit code, standard output and standard error."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    argv = ["recsys-fed", *map(str, arguments)]
    with (
        patch.object(sys, "argv", argv),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main()
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return stop.value.code, *texts


def json_of(text):
    """JSON as the standard has it: no NaN and no Infinity."""
    return json.loads(text, parse_constant=pytest.fail)
