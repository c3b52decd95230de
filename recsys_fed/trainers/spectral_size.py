"""How large the spectral model is and how many rounds it takes: a rule over public facts, nothing else."""

import math
from dataclasses import dataclass

from recsys_fed.errors import ConfigurationError
from recsys_fed.trainers.popularity import BUDGET_SHARE
from recsys_fed.trainers.trainer import PublicFacts

_MAX_DIM, _MAX_DIM_WITH_FEATURES = 32, 48
_MIN_HEAD = 50
# The popularity of all items also enters as a bias, so that an empty history has a ranking.
PRIOR = 0.05
# Below these signals popularity is most of what can be learned: its counts get more of the budget, it counts more
# in the score, and directions are weighed.
_FAINT, _FAINT_WITH_FEATURES = 1_000, 500
_FAINT_COUNTS_SHARE, _FAINT_PRIOR = 0.25, 0.2


@dataclass(frozen=True, kw_only=True)
class Size:
    """Dimensions of the released subspace (popularity included), head items, rounds, and what else follows.

    Attributes:
        counts_share: of the budget, for the counts.
        weighted: whether directions count by how reliable they are, see `estimate.reliability`.
        prior: weight of popularity as a bias, the same for everybody, beside scores of size one.
    """

    embedding_dim: int
    n_head: int
    rounds: int
    counts_share: float = BUDGET_SHARE
    weighted: bool = False
    prior: float = PRIOR


def size(facts: PublicFacts) -> Size:
    """The rule: how much can be learned from so many users under so much noise. It reads public facts only.

    Noise enters per entry, n_head * dim entries in all, and the signal grows with the number of users. Public
    features pay for more entries where the signal is small, because the rows are smoothed by them afterwards. The
    constants were chosen on validation parts of MovieLens-1M and MovieLens-100K (docs/evaluation.md).
    """
    signal = min(facts.signal_to_noise, 1e12)
    featured = facts.features is not None
    cells = 4.5 * signal
    # As many dimensions as items would give back every history as it is and recommend nothing.
    most = min(_MAX_DIM_WITH_FEATURES if featured else _MAX_DIM, max(2, facts.n_items // 4))
    wanted = signal**0.4 if featured else math.sqrt(cells / 50)
    dim = min(facts.embedding_dim or round(min(max(wanted, 4), most)), facts.n_items)
    # For dim = signal^0.4, 150 signal^0.65 cells are 150 signal^0.25 rows; beyond signal 10^4 the other grows faster.
    entries = max(150 * signal**0.65, cells) if featured else cells
    n_head = int(min(max(entries / dim, _MIN_HEAD), facts.n_items))
    faint = signal < (_FAINT_WITH_FEATURES if featured else _FAINT)
    return Size(
        embedding_dim=min(dim, n_head),
        n_head=n_head,
        rounds=facts.rounds or 1 + _iterations(facts),
        counts_share=_FAINT_COUNTS_SHARE if faint else BUDGET_SHARE,
        weighted=faint and not featured,
        prior=_FAINT_PRIOR if faint else PRIOR,
    )


def check_rounds(facts: PublicFacts) -> None:
    """Refuse rounds that leave nothing after the counts.

    Raises:
        ConfigurationError: one round was asked for.
    """
    if facts.rounds == 1:
        raise ConfigurationError(
            "Expected rounds >= 2 for the spectral trainer (one of counts), got 1. Leave rounds at 0 for the rule."
        )


def _iterations(facts: PublicFacts) -> int:
    signal = facts.signal_to_noise
    if facts.features is not None and signal < 20_000:
        # Public features already give a good start: more of the budget for fewer rounds.
        return 2
    return 2 if signal < 5_000 else 3 if signal < 50_000 else 5
