"""Run `recsys-fed` in this process."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

import pytest

from recsys_fed import cli


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
