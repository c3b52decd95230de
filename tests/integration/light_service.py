"""A service started and asked in an environment that need not have anything that trains.

`python light_service.py COMMAND RUN`: COMMAND is `recsys-fed` there, RUN the folder of a run. Any Python runs it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path

SECONDS = 120


def answer_of_service(
    command: Sequence[str], run: Path, state: Path, *, environment: Mapping[str, str] | None = None
) -> list[str]:
    """Start the service on a run and interactions of its own; the items that it recommends to a user of these."""
    state.mkdir(exist_ok=True)
    (state / "bought.csv").write_text("user,item\nanna,1\nanna,2\nbert,1\nanna,2\n")
    token = subprocess.run(
        [*command, "silo", "token", "create", "shop", "--scopes", "recommend", "--state", str(state)],
        env=environment, capture_output=True, text=True, check=True, timeout=SECONDS,
    ).stdout.strip()  # fmt: skip
    serve = [*command, "silo", "api", "--model", str(run), "--interactions", str(state / "bought.csv")]
    serve += ["--state", str(state), "--port", "0"]
    with (state / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            said = process.stdout.readline() + process.stdout.readline()
            errors.seek(0)
            assert "imported 3 interactions" in said and "serving on " in said, said + errors.read()
            connection = HTTPConnection("127.0.0.1", int(said.rpartition(":")[2]), timeout=SECONDS)
            headers = {"Authorization": f"Bearer {token}", "content-type": "application/json"}
            question = json.dumps({"user": "anna", "limit": 3})
            connection.request("POST", "/v1/recommendations", body=question, headers=headers)
            return [entry["item"] for entry in json.load(connection.getresponse())["items"]]
        finally:
            process.terminate()
            process.wait(timeout=SECONDS)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        items = answer_of_service([sys.argv[1]], Path(sys.argv[2]), Path(folder) / "serving")
    assert len(items) == 3 and not {"1", "2"} & set(items), items
