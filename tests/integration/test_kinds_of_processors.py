"""The numerical tests under the code paths that libraries choose on other processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMERICAL = ["models", "evaluation", "trainers", "privacy", "federation/secure_aggregation"]
# NumPy's OpenBLAS, torch's own kernels and its MKL take other paths; those of one thread and of two add up otherwise.
KINDS = {
    "Haswell, plain kernels, two threads": ("Haswell", "default", "2"),
    "Haswell, avx2, one thread": ("Haswell", "avx2", "1"),
    "Zen, plain kernels, one thread": ("Zen", "default", "1"),
    "Zen, avx2, two threads": ("Zen", "avx2", "2"),
}

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("kind", KINDS)
def test_the_numerical_tests_pass_on_another_kind_of_processor(kind, tmp_path):
    core, kernels, threads = KINDS[kind]
    environment = os.environ | {
        "OPENBLAS_CORETYPE": core,
        "ATEN_CPU_CAPABILITY": kernels,
        # The first is read by old versions of MKL alone, the second by those since 2020.
        "MKL_DEBUG_CPU_TYPE": "5",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2" if kernels == "default" else "AVX2",
        "OMP_NUM_THREADS": threads,
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "not soak",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        tmp_path / "t",
    ]
    done = subprocess.run(
        [*command, *(f"tests/{part}" for part in NUMERICAL)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6_000:]
