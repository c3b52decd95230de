"""Benchmarks by name. Adding one is one file and one line here."""

from collections.abc import Callable

from simulations.benchmarks.clipped_sum import clipped_sum_lines
from simulations.benchmarks.engines import engine_lines
from simulations.benchmarks.ledger import ledger_lines
from simulations.benchmarks.line import Line
from simulations.benchmarks.whole_run import whole_run_lines

# In this order, whatever order was asked for: Linux counts a parent's memory towards the peak of the processes that
# it starts, so the run whose peak is measured comes first.
BENCHMARKS: dict[str, Callable[[], list[Line]]] = {
    "whole-run": whole_run_lines,
    "engines": engine_lines,
    "clipped-sum": clipped_sum_lines,
    "ledger": ledger_lines,
}
