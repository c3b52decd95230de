"""Which variant of an experiment a user sees: a keyed hash, so the same one every time, with nothing stored."""

import hashlib
import hmac
from collections.abc import Sequence

from recsys_fed.serving.settings import Variant

_SPAN = float(1 << 64)


def assigned(user: str, variants: Sequence[Variant], *, experiment: str, key: bytes) -> Variant:
    """The variant of a user: shares of the users in proportion to the variants' shares.

    The key is the silo's: nobody who lacks it can choose an id that lands in a variant. Another experiment's name
    assigns independently.
    """
    digest = hmac.new(key, f"{experiment}\0{user}".encode(), hashlib.sha256).digest()
    point = int.from_bytes(digest[:8], "big") / _SPAN * sum(variant.share for variant in variants)
    for variant in variants:
        point -= variant.share
        if point < 0:
            return variant
    return variants[-1]
