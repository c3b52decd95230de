"""What an audit is asked to do."""

from dataclasses import dataclass

from recsys_fed import checks


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Settings of an audit.

    Attributes:
        canaries: crafted users, of whom about one half takes part.
        withhold: ordinary users who are taken out, the non-members of attacks (a quarter of all at most).
        people: of those, whose histories are attacked.
        list_length: of the served lists.
        runs: releases of each kind for the likelihood ratio of one round.
        hostile_requests: to pairs of silos that differ by one user. neighbouring_files: pairs of files and tables.
        seed: of canaries, coins and the auditor's keys.
        power: also audit the null and the broken copies.
        attacks: also attack the model, updates and lists, with a run without noise as reference.
    """

    canaries: int = 1_000
    withhold: int = 400
    people: int = 50
    list_length: int = 20
    runs: int = 100
    hostile_requests: int = 200
    neighbouring_files: int = 60
    seed: int = 0
    power: bool = True
    attacks: bool = True

    def __post_init__(self) -> None:
        checks.at_least(10, canaries=self.canaries, withhold=self.withhold, runs=self.runs)
        checks.at_least(4, people=self.people)
        checks.at_least(1, list_length=self.list_length)
        checks.at_least(1, hostile_requests=self.hostile_requests, neighbouring_files=self.neighbouring_files)
        checks.at_least(0, seed=self.seed)
