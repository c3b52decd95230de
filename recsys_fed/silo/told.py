"""What a silo knows beside its histories, by [attributes] of silo.toml. It stays in the silo.

What users count in training, and whose metrics are reported apart, follows from it by public rules: see
`federation.user_weights` and `federation.metrics_round`.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys_fed.context import contexts_at, parse_contexts
from recsys_fed.data.readers.users import UserRule, parse_attribute_columns, read_attributes, read_user_numbers
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories
from recsys_fed.personalisation.fusion import Told
from recsys_fed.silo.secret import Pseudonyms
from recsys_fed.silo.settings import AttributeSettings, SiloSettings


class Knowledge:
    """The table of users as it is now, and which contexts count. Private to the silo."""

    def __init__(self, settings: AttributeSettings, pseudonyms: Pseudonyms) -> None:
        self._settings, self._pseudonyms = settings, pseudonyms
        columns = parse_attribute_columns(settings.columns) if settings.columns else {}
        self.contexts = parse_contexts(settings.context)
        self.names = (*columns, *self.contexts)
        self._columns = columns

    @classmethod
    def of_silo(cls, settings: SiloSettings, pseudonyms: Pseudonyms) -> "Knowledge | None":
        """What silo.toml says; None where there is no [attributes], or it is for rules of the federation alone."""
        found = cls(settings.attributes, pseudonyms)
        return found if found.names and settings.personalisation == "silo-trusted" else None

    def of(self, users: npt.NDArray[np.object_], histories: Histories) -> Told:
        """What is told of users under pseudonyms, and of their interactions.

        Raises:
            DataError: the table of users cannot be read.
            ConfigurationError: contexts count, and the histories were kept without times.
        """
        attributes, signals = {}, histories.signals
        if self._columns and len(users):
            path = Path(self._settings.path)
            attributes = dict(read_attributes(path, self._columns, users, rename=self._pseudonyms.of))
        if not self.contexts:
            return Told(attributes=attributes)
        if signals is None or signals.time is None:
            raise ConfigurationError(
                "Expected times of the silo's interactions for attributes.context: its state was kept without, or "
                "holds positions. Take part in a training, or leave the context out."
            )
        return Told(attributes=attributes, contexts=contexts_at(signals.time.cpu().numpy(), self.contexts))


def numbers_of_users(
    settings: SiloSettings, rule: UserRule | None, users: npt.NDArray[np.object_], pseudonyms: Pseudonyms
) -> npt.NDArray[np.float64] | None:
    """Number of each of the users under pseudonyms by an agreed rule, float64 [n_users]; None without one.

    Guarantees, raises: see `read_user_numbers`.
    """
    if rule is None:
        return None
    column = settings.column_of(rule)
    return read_user_numbers(Path(settings.attributes.path), column, rule, users, rename=pseudonyms.of)
