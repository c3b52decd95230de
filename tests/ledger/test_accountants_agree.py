"""PLD and PRV agree on histories of mixed events and share no code of ours; Rényi is never below them."""

import ast
import random
from pathlib import Path

import pytest

from recsys_fed.privacy import accounting
from recsys_fed.privacy.accounting import epsilon_pld, epsilon_prv, epsilon_rdp
from recsys_fed.privacy.accounting.opacus import DEFAULT_EPS_ERROR, RELATIVE_EPS_ERROR
from recsys_fed.privacy.events import PrivacyEvent

HISTORIES = 50
ALWAYS = 5
# What both may use: what an event is (its slack is taken from delta), which settings are refused, and how.
COMMON = {
    "recsys_fed.checks", "recsys_fed.errors", "recsys_fed.privacy.events", "recsys_fed",
}  # fmt: skip


def history(number: int) -> list[PrivacyEvent]:
    """A random history that a silo might have: full rounds, sampled steps, or both."""
    rng = random.Random(number)

    def some(most: int, probabilities: list[float], steps: list[int], noise: tuple[float, float]):
        for _ in range(rng.randint(1, most)):
            yield PrivacyEvent(
                noise_multiplier=round(rng.uniform(*noise), 3),
                sampling_probability=rng.choice(probabilities),
                steps=rng.choice(steps),
            )

    full = some(5, [1.0], [1, 1, 2, 5], (3.0, 30.0))
    sampled = some(2, [0.01, 0.05, 0.2], [1, 20, 80], (0.9, 6.0))
    return [[*full], [*sampled], [*full, *sampled]][number % 3]


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.soak if n >= ALWAYS else ()) for n in range(HISTORIES)]
)
def test_accountants_agree_on_a_random_history(number):
    events, delta = history(number), [1e-5, 1e-6, 1e-8][number // 3 % 3]
    pld, prv, rdp = (accountant(events, delta=delta) for accountant in (epsilon_pld, epsilon_prv, epsilon_rdp))
    # Below 0.05 the smallest absolute error of PRV's grid is what differs.
    assert pld == pytest.approx(prv, rel=0.01, abs=5e-4)
    assert rdp >= pld
    assert rdp >= prv - max(DEFAULT_EPS_ERROR, 2 * RELATIVE_EPS_ERROR * prv)


def imported(name: str) -> set[str]:
    """Modules that the source of an accountant imports."""
    tree = ast.parse((Path(accounting.__file__).parent / f"{name}.py").read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


@pytest.mark.parametrize(
    ("name", "own", "foreign"), [("pld", "dp_accounting", "opacus"), ("opacus", "opacus", "dp_accounting")]
)
def test_the_two_accountants_share_no_code(name, own, foreign):
    modules = imported(name)
    tops = {module.split(".")[0] for module in modules}
    assert own in tops
    assert foreign not in tops
    assert {module for module in modules if module.startswith("recsys_fed")} <= COMMON
