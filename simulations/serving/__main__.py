"""`python -m simulations.serving [NAME ...]`: figures of docs/serving.md, as JSON; without names, all of them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from simulations.serving.breadth import breadth_table
from simulations.serving.logs import POLICIES, coverage
from simulations.serving.peeking import claims
from simulations.serving.pressure import erasure, pressure
from simulations.serving.questions import questions_table
from simulations.serving.replay import Halves, halves, replay
from simulations.serving.world import regret


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m simulations.serving", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/ml-1m"), help="interactions with times")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--target", default="any", help="of training: any item, or the next one")
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0, help="of who is a cold user in questions")
    parser.add_argument("--dislikes", type=float, default=0.0, help="weight with which questions subtract dislikes")
    given = parser.parse_args(arguments)

    @lru_cache(maxsize=1)
    def cut() -> Halves:
        return halves(given.data, epsilon=given.epsilon, target=given.target)

    measured: dict[str, Callable[[], object]] = {
        "replay": lambda: replay(cut(), users=given.users, steps=30),
        "breadth": lambda: breadth_table(cut(), users=given.users),
        "exploration": lambda: {
            f"popular genre liked with {popular:g}": {
                f"{method}, scale {scale:g}": [
                    round(regret(method, users=50, rounds=60, scale=scale, seed=seed, popular=popular), 2)
                    for seed in range(3)
                ]
                for method, scale in (("none", 1.0), ("thompson", 0.3), ("linucb", 1.0))
            }
            for popular in (0.3, 0.05)
        },
        "pressure": pressure,
        "erasure": erasure,
        "coverage": lambda: {policy: coverage(policy, logs=500, users=1_000, seed=1) for policy in POLICIES},
        "questions": lambda: questions_table(
            given.data, epsilon=given.epsilon, users=given.users, seed=given.seed, dislikes=given.dislikes
        ),
        "peeking": lambda: {
            "A/A, 10% and 10%": claims(tests=1_000, users=2_000, rates=(0.1, 0.1), level=0.05, seed=1),
            "A/B, 10% and 15%": claims(tests=200, users=4_000, rates=(0.1, 0.15), level=0.05, seed=2),
        },
    }
    names = given.names or list(measured)
    if unknown := sorted(set(names) - set(measured)):
        parser.error(f"Expected names of {', '.join(measured)}, got {', '.join(unknown)}.")
    sys.stdout.write(json.dumps({name: measured[name]() for name in names}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
