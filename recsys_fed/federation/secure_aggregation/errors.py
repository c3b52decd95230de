"""Why a round of secure aggregation was given up.

    ProtocolError
    └── SecureAggregationError          the base; `culprit` is the silo that the finding points at, "" if none
        ├── TermsError                  the round's terms are not those that this silo accepts
        ├── MalformedMessageError       bytes that are no message of this protocol, or of another size
        ├── ForgedSignatureError        a signature is not that of the silo that the message names
        ├── NotAdmittedError            a key that is not on the list of admitted or invited silos
        ├── ReplayedMessageError        a genuine message of another round or phase, or a second one of this phase
        ├── SubstitutedKeyError         a silo's own keys came back changed, or two silos advertise the same key
        ├── ForgedShareError            a sealed share does not open: altered, swapped, or from another round
        ├── OutOfFieldShareError        a share is no element of the field
        ├── WrongShareError             shares reconstruct a key or a mask that is not the advertised one
        ├── InconsistentSurvivorsError  silos were told different sets of survivors
        └── TooFewSurvivorsError        fewer silos than the threshold; what was masked stays masked

A silo that raises one of them has revealed nothing but what it sent before.
"""

from recsys_fed.errors import ProtocolError


class SecureAggregationError(ProtocolError):
    """A round of secure aggregation was given up.

    Attributes:
        culprit: identity key of the silo that the finding points at; "" where it points at none in particular,
            which leaves the server or whoever carries its messages.
    """

    def __init__(self, message: str, *, culprit: str = "") -> None:
        super().__init__(message)
        self.culprit = culprit


class TermsError(SecureAggregationError):
    """The round's terms are not those that this silo accepts."""


class MalformedMessageError(SecureAggregationError):
    """Bytes that are no message of this protocol, or of another size."""


class ForgedSignatureError(SecureAggregationError):
    """A signature is not that of the silo that the message names."""


class NotAdmittedError(SecureAggregationError):
    """A key that is not on the list of admitted or invited silos."""


class ReplayedMessageError(SecureAggregationError):
    """A genuine message of another round or phase, or a second one of this phase."""


class SubstitutedKeyError(SecureAggregationError):
    """A silo's own keys came back changed, or two silos advertise the same key."""


class ForgedShareError(SecureAggregationError):
    """A sealed share does not open: altered, swapped, or from another round."""


class OutOfFieldShareError(SecureAggregationError):
    """A share is no element of the field."""


class WrongShareError(SecureAggregationError):
    """Shares reconstruct a key or a mask that is not the advertised one."""


class InconsistentSurvivorsError(SecureAggregationError):
    """Silos were told different sets of survivors."""


class TooFewSurvivorsError(SecureAggregationError):
    """Fewer silos than the threshold; what was masked stays masked."""


def objection_of(reason: str) -> SecureAggregationError | None:
    """The error that a silo's error reply speaks of, "NAME: text"; None if it is none of these."""
    name, _, text = reason.partition(": ")
    every: list[type[SecureAggregationError]] = [SecureAggregationError, *SecureAggregationError.__subclasses__()]
    kinds = {kind.__name__: kind for kind in every}
    return kinds[name](text) if name in kinds else None
