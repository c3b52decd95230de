"""Every error that the library raises on purpose.

    RecsysFedError
    ├── ConfigurationError (ValueError)     a setting is wrong; nothing was done
    ├── DataError                           interactions or a catalogue cannot be used
    │   ├── StoreBusyError                  a database is locked or out of reach now; try again
    │   ├── DataNotFoundError               a path or a named data set is not there
    │   └── DataFormatError                 a file is there but not in the format said
    │       └── MissingColumnError          it lacks a column that was named; says nothing of any row
    ├── PrivacyError                        the guarantee would not hold; nothing was released
    │   ├── CalibrationError                no noise multiplier reaches the target
    │   └── BudgetExceededError             a release would cost more than is left
    ├── LedgerError                         a ledger cannot be read or written; nothing was released
    │   ├── LedgerIntegrityError            an entry, the chain or a signature does not hold
    │   └── ClockError                      the clock went back behind the last entry
    ├── KeyFileError                        a key file cannot be read or written
    ├── ProtocolError                       a message from a peer was refused
    │   └── SecureAggregationError          and what goes with it: federation.secure_aggregation.errors
    └── EngineError                         the engine that carries messages failed

Messages say what was expected, what came and what to do. They never hold private values: no
user id, no item of a user, no count of a silo.
"""


class RecsysFedError(Exception):
    """Base of all errors of this library."""


class ConfigurationError(RecsysFedError, ValueError):
    """A setting is wrong; nothing was done."""


class DataError(RecsysFedError):
    """Interactions or a catalogue cannot be used."""


class StoreBusyError(DataError):
    """A database is locked or out of reach now; nothing was acknowledged, the same can be tried again."""


class DataNotFoundError(DataError):
    """A path or a named data set is not there."""


class DataFormatError(DataError):
    """A file is there but not in the format said."""


class MissingColumnError(DataFormatError):
    """A file or the answer to a query lacks a column that was named: a fact about its header, not about any row."""


class PrivacyError(RecsysFedError):
    """The guarantee would not hold; nothing was released."""


class CalibrationError(PrivacyError):
    """No noise multiplier reaches the target."""


class BudgetExceededError(PrivacyError):
    """A release would cost more than is left."""


class LedgerError(RecsysFedError):
    """A ledger cannot be read or written; nothing was released."""


class LedgerIntegrityError(LedgerError):
    """An entry, the chain or a signature does not hold."""


class ClockError(LedgerError):
    """The clock went back behind the last entry."""


class KeyFileError(RecsysFedError):
    """A key file cannot be read or written."""


class ProtocolError(RecsysFedError):
    """A message from a peer was refused."""


class MissingExtraError(RecsysFedError, ModuleNotFoundError):
    """A library is not installed that an extra of this package brings."""


class EngineError(RecsysFedError):
    """The engine that carries messages failed."""
