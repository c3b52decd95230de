"""Benchmarks by name. Adding one is one file and one line here."""

from collections.abc import Callable

from simulations.benchmarks.clipped_sum import clipped_sum_lines
from simulations.benchmarks.deployed_round import deployed_round_lines
from simulations.benchmarks.dp_sgd_step import dp_sgd_step_lines
from simulations.benchmarks.engines import engine_lines
from simulations.benchmarks.growth import growth_lines
from simulations.benchmarks.ledger import ledger_lines
from simulations.benchmarks.line import Line
from simulations.benchmarks.module_step import module_step_lines
from simulations.benchmarks.noise import noise_lines
from simulations.benchmarks.reading import reading_lines
from simulations.benchmarks.round_work import round_work_lines
from simulations.benchmarks.secure_aggregation import secure_aggregation_lines
from simulations.benchmarks.server_memory import server_memory_lines
from simulations.benchmarks.serving import serving_lines
from simulations.benchmarks.spectral_scale import spectral_scale_lines
from simulations.benchmarks.whole_run import whole_run_lines
from simulations.benchmarks.whole_runs import whole_runs_lines

# In this order, whatever order was asked for: Linux counts a parent's memory towards the peak of the processes that
# it starts, so the runs whose peak is measured come first; then what is timed with the allocator as it comes, which
# whole runs in this process set as silos do.
BENCHMARKS: dict[str, Callable[[], list[Line]]] = {
    "reading": reading_lines,
    "whole-run": whole_run_lines,
    "spectral-scale": spectral_scale_lines,
    "clipped-sum": clipped_sum_lines,
    "dp-sgd-step": dp_sgd_step_lines,
    "module-step": module_step_lines,
    "whole-runs": whole_runs_lines,
    "growth": growth_lines,
    "engines": engine_lines,
    "ledger": ledger_lines,
    "noise": noise_lines,
    "secure-aggregation": secure_aggregation_lines,
    "serving": serving_lines,
    "round-work": round_work_lines,
    "deployed-round": deployed_round_lines,
    "server-memory": server_memory_lines,
}
