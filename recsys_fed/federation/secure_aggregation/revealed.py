"""What survivors reveal so that the sum can be unmasked: of every silo that sent shares, one share of one secret.

    UNMASKING   silo -> server   count | (silo [32] | kind [1] | share [33]) ...

`kind` follows from the survivors: the self mask of a silo that survived, the mask key of one that did not. It is
written out so that a silo and a server that disagree find out.
"""

from collections.abc import Mapping

from recsys_fed.federation.secure_aggregation.errors import InconsistentSurvivorsError, OutOfFieldShareError
from recsys_fed.federation.secure_aggregation.reader import Reader, uint32
from recsys_fed.federation.secure_aggregation.sealing import SharePair
from recsys_fed.federation.secure_aggregation.shamir import SHARE_BYTES, field_element

_SELF_MASK, _MASKING = b"b", b"s"
_ENTRY = 32 + 1 + SHARE_BYTES


def revealed_to_bytes(held: Mapping[str, SharePair], survivors: frozenset[str]) -> bytes:
    """One share of each silo's, never both.

    Guarantees: of a survivor the share of its self mask, of any other silo that of its mask key.
    """
    parts = [
        bytes.fromhex(silo) + (_SELF_MASK + pair.self_mask if silo in survivors else _MASKING + pair.masking)
        for silo, pair in sorted(held.items())
    ]
    return uint32(len(parts)) + b"".join(parts)


def most_revealed(n_silos: int) -> int:
    """Bytes that a message may have."""
    return 4 + n_silos * _ENTRY


def read_revealed(
    content: bytes, *, sender: str, expected: frozenset[str], survivors: frozenset[str]
) -> dict[str, bytes]:
    """Shares by the silo whose secret they are of.

    Raises:
        MalformedMessageError: another form.
        InconsistentSurvivorsError: shares of other silos than expected, or of the other secret.
        OutOfFieldShareError: a share is no element of the field.
    """
    reader = Reader(content, "revealed shares")
    found = [(reader.identity(), reader.take(1), reader.take(SHARE_BYTES)) for _ in range(reader.count())]
    reader.end()
    reader.ascending([silo for silo, _, _ in found])
    kinds = {silo: kind for silo, kind, _ in found}
    if kinds != {silo: _SELF_MASK if silo in survivors else _MASKING for silo in expected}:
        raise InconsistentSurvivorsError(
            f"Expected silo {sender[:12]} to reveal one share of each of its {len(expected)} neighbours that sent "
            f"shares, for these survivors, got {len(found)} of others.",
            culprit=sender,
        )
    for _, _, share in found:
        try:
            field_element(share)
        except OutOfFieldShareError as error:
            raise OutOfFieldShareError(f"Silo {sender[:12]}: {error}", culprit=sender) from error
    return {silo: share for silo, _, share in found}
