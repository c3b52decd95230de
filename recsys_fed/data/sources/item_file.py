"""Public item columns read from an item file, and the catalogue of the items that occur."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from recsys_fed.catalogue.items import Catalogue


@dataclass(frozen=True, kw_only=True)
class ItemColumns:
    """What an item file says: by item id, its title, categories and text."""

    titles: dict[str, str] = field(default_factory=dict)
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def catalogue_of(item_ids: npt.NDArray[np.object_], columns: ItemColumns | None = None) -> Catalogue:
    """The catalogue of the items that occur in a whole data set, in the order of `item_ids` (id order).

    It looks at all interactions, which a simulation may. An item that the item file lacks has an empty
    title, no category and an empty text; a column that the file lacks altogether stays None.
    """
    known = columns or ItemColumns()
    ids = item_ids.tolist()
    return Catalogue(
        item_ids=item_ids,
        titles=tuple(known.titles.get(item, "") for item in ids) if known.titles else None,
        categories=tuple(known.categories.get(item, ()) for item in ids) if known.categories else None,
        texts=tuple(known.texts.get(item, "") for item in ids) if known.texts else None,
    )
