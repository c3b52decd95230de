"""Where real data lies, and what a skip for want of it means."""

import os
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).resolve().parent
# Names of files, relative to this folder; see CONTRIBUTING.md.
SLOW = {line.split()[0] for line in (HERE / "slow_files.txt").read_text().splitlines() if not line.startswith("#")}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# Nothing that tests start reports to anybody, and no test downloads.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# How long an example takes says nothing where other processes share the machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# Of a mutant it is enough to know that it was found, and each time by the same examples; see `make mutants`.
hypothesis.settings.register_profile(
    "mutants", deadline=None, derandomize=True, phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate)
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files, which `make test-fast` leaves out."""
    for item in items:
        if item.path.is_relative_to(HERE) and str(item.path.relative_to(HERE)) in SLOW:
            item.add_marker("slow")


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets; skips where there is none."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    return SHARED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With RECSYS_FED_REQUIRE_DATA=1, a test that skipped for want of data that is there has failed."""
    report = yield
    if os.environ.get("RECSYS_FED_REQUIRE_DATA") == "1" and report.skipped and SHARED.is_dir():
        reason = str(report.longrepr)
        if "../shared/data" in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped although {SHARED} is there: {reason}"
    return report
