"""Pseudonyms of users: a keyed hash of the raw id, so that what the silo keeps and logs names nobody.

    pseudonym = first 128 bits of HMAC-SHA256(key derived from the silo's secret, id as text)

Without the key a pseudonym cannot be guessed from an id, not even from a list of all ids. Of 10^9 users two
share one with probability below 10^-20.
"""

import hashlib
import hmac

import numpy as np
import numpy.typing as npt

from recsys_fed.silo.secret import SiloSecret

_DIGITS = 32
_PURPOSE = "user pseudonyms"


class Pseudonyms:
    """The silo's pseudonyms; the same secret gives the same ones for ever."""

    def __init__(self, secret: SiloSecret) -> None:
        self._key = secret.derived(_PURPOSE)

    def of(self, user: str) -> str:
        """The pseudonym of one raw id, 32 hexadecimal digits."""
        return hmac.new(self._key, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:_DIGITS]

    def of_all(self, users: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
        """Those of many, object array of str [n]."""
        found = np.empty(len(users), dtype=object)
        found[:] = [self.of(user) for user in users.tolist()]
        return found
