"""What a training can be expected to reach, as a share of what its trainer reaches without noise: a fitted law.

    share = 1 / (1 + (S / s)^B),      s = declared users / noise of all releases (`PublicFacts.signal_to_noise`)

S and B are fitted to Recall@20 of `spectral` on MovieLens-1M at epsilon 1, 2, 4 and 8 (docs/quality.md): without
public features by the UltraGCN split, ten silos masked and with noise of their own; with them by random90, masked.
The law is right to .02 there. On six trainings of growing data, which it was not fitted to, it was off by up to .03
(docs/years.md). On other data expect the order of trainings and the size of steps from it, not the second digit.
"""

from dataclasses import dataclass

from recsys_fed.trainers.trainer import PublicFacts

_WITHOUT_FEATURES, _WITH_FEATURES = (505.0, 0.72), (410.0, 0.80)
ERROR = 0.03


@dataclass(frozen=True, kw_only=True)
class ExpectedShare:
    """Of the quality without noise: the law's figure, and how far it was off where it was tried."""

    share: float
    error: float = ERROR


def expected_share(facts: PublicFacts) -> ExpectedShare:
    """The law for a training of `spectral` with all that came before it.

    >>> facts = PublicFacts(n_items=3706, catalogue_hash="", declared_users=6000, silos=10, noise_level=1.0)
    >>> round(expected_share(facts).share, 2)
    0.86
    """
    size, exponent = _WITHOUT_FEATURES if facts.features is None else _WITH_FEATURES
    return ExpectedShare(share=float(1 / (1 + (size / facts.signal_to_noise) ** exponent)))
