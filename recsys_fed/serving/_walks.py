"""A walk through the pages of a list: a cursor says which items were shown, so that none comes twice or is left out.

    cursor = version of the model "." rows of the items that were shown (little-endian, base64)

Each page is the best of what was not shown yet. So it does not matter what happened since the page before: a place
that was drawn at random, an event that moved the scores, a start of the service anew. The service keeps nothing of a
walk; whoever changes a cursor has asked for other items to be left out, which is everybody's right.
"""

import base64
import binascii
from collections.abc import Sequence

import numpy as np

from recsys_fed.errors import ConfigurationError
from recsys_fed.serving.packed_model import PackedModel
from recsys_fed.serving.versions import DIGITS

# Places of a walk; and characters of the longest cursor.
LONGEST_WALK = 1_200
LONGEST_CURSOR = DIGITS + 1 + -(-LONGEST_WALK * 4 // 3) * 4
_WRONG = "Expected a cursor as the page before gave it. Begin again without one."


def cursor_of(release: PackedModel, shown: Sequence[int]) -> str:
    """The cursor after these rows were shown."""
    rows = base64.urlsafe_b64encode(np.asarray(shown, dtype="<u4").tobytes()).decode().rstrip("=")
    return f"{release.version[:DIGITS]}.{rows}"


def version_of(cursor: str) -> str:
    """The version that a cursor's walk began with."""
    return cursor.partition(".")[0]


def rows_shown(cursor: str, release: PackedModel) -> tuple[int, ...]:
    """The rows that a cursor of this version says were shown.

    Raises:
        ConfigurationError: it is no cursor of this version.
    """
    version, _, text = cursor.partition(".")
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        rows = np.frombuffer(content, dtype="<u4")
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(_WRONG) from error
    if version != release.version[:DIGITS] or not len(rows) or len(rows) > LONGEST_WALK:
        raise ConfigurationError(_WRONG)
    if rows.max() >= release.n_items or len(np.unique(rows)) < len(rows):
        raise ConfigurationError(_WRONG)
    return tuple(rows.tolist())
