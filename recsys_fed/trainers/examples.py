"""What a module sees of users in a round: what they have, what it is asked about, and for which items it counts.

A user's example follows from that user's history, the catalogue's size and a public key: which items are hidden,
which are left out of a long history, and the negatives are hashes of these (see `loss`). One user more or less
changes nobody's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from recsys_fed.models.histories import Histories
from recsys_fed.trainers.loss import GOLDEN, MASK, Asked, Negatives, draw_negatives, fingerprints, mix

# Items of a user that a module sees, and that it is asked about; of longer histories that many.
LONGEST = 128
# Apart from the stream of the negatives, which the same key gives.
_HIDING = 0x5DEECE66D
_CELLS = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Of users whose lists have about the same length.

    Attributes:
        rows: which users, int64 [n_users].
        history: int64 [n_users, length], the newest last where there is an order, filled up in front with n_items.
        items: int64 [n_users, n_asked], filled up with n_items.
        asked: which of them the user has, and which stand for others.
        n_items: rows of the table.
    """

    rows: torch.Tensor
    history: torch.Tensor
    items: torch.Tensor
    asked: Asked
    n_items: int

    def part(self, first: int, last: int) -> "Examples":
        """Those of some users in a row."""
        some = slice(first, last)
        return Examples(
            rows=self.rows[some],
            history=self.history[some],
            items=self.items[some],
            asked=Asked(positive=self.asked.positive[some], negative=self.asked.negative[some]),
            n_items=self.n_items,
        )


@dataclass(frozen=True, kw_only=True)
class ExampleSettings:
    """How examples are made; public.

    Attributes:
        hidden_share: of a user's items that the history lacks and the loss asks for; 0: it asks for what it sees.
            With an order the hidden ones are later than those that are seen.
        n_negatives: for each user.
        all_items: ask about every row instead.
        columns: of the table; only for how many users are worked on at once.
    """

    hidden_share: float
    n_negatives: int
    all_items: bool
    columns: int


def make_examples(histories: Histories, settings: ExampleSettings, *, key: int) -> Iterator[Examples]:
    """The users of `histories` who have an item to be asked about, a few at a time.

    Guarantees: a user's row is a function of `key`, `settings`, n_items and that user's own history and order. Who is
    worked on with whom depends on everybody, so nothing but sums may follow from it.
    """
    streams = mix(fingerprints(histories) ^ mix(torch.tensor(key ^ _HIDING, device=histories.device)))
    numbers = mix(streams[histories.users] + GOLDEN * (histories.items.long() + 1)) & MASK
    ordered = histories.signals is not None and histories.signals.rank is not None
    order = histories.by_order if ordered else _by_number(histories, numbers)
    shown, hidden = _split(histories, order, numbers, streams, settings.hidden_share, ordered=ordered)
    negatives = None if settings.all_items else draw_negatives(histories, count=settings.n_negatives, key=key)
    items = histories.items.long()[order]
    longest = torch.maximum(_counts(histories, shown), _counts(histories, hidden)).clamp_max(LONGEST)
    sizes = _round_up(longest)
    for size in torch.unique(sizes).tolist():
        same = torch.nonzero((sizes == size) & (_counts(histories, hidden) > 0))[:, 0]
        if not len(same):
            continue
        n_asked = histories.n_items if negatives is None else size + negatives.items.shape[1]
        for some in torch.split(same, max(1, _CELLS // ((size + n_asked) * settings.columns))):
            history = _fill(histories, items, shown, some, size, newest=True)
            positives = _fill(histories, items, hidden, some, size, newest=False)
            yield _examples(history, positives, negatives, some, histories.n_items)


def _by_number(histories: Histories, numbers: torch.Tensor) -> torch.Tensor:
    """Interactions user by user, each user's in the order of the numbers."""
    order = torch.argsort(numbers, stable=True)
    return order[torch.argsort(histories.users[order], stable=True)]


def _split(
    histories: Histories,
    order: torch.Tensor,
    numbers: torch.Tensor,
    streams: torch.Tensor,
    share: float,
    *,
    ordered: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places of `order` are shown, and which are asked about: bool [n_interactions] each."""
    if share == 0:
        every = torch.ones_like(order, dtype=torch.bool)
        return every, every
    if not ordered:
        hidden = numbers[order] < int(share * (MASK + 1))
        return ~hidden, hidden
    # A place of the user's order, at random: what comes before is seen, what comes after is asked about.
    sizes = histories.starts.diff()
    cut = (sizes > 1) * (1 + (mix(streams) & MASK) % (sizes - 1).clamp_min(1))
    place = torch.arange(len(order), device=order.device) - histories.starts[histories.users]
    later = place >= cut[histories.users]
    return ~later, later


def _counts(histories: Histories, chosen: torch.Tensor) -> torch.Tensor:
    """How many of each user's places are chosen, int64 [n_users]."""
    sums = torch.zeros(len(chosen) + 1, dtype=torch.int64, device=chosen.device)
    sums[1:] = chosen.cumsum(0)
    return sums[histories.starts].diff()


def _round_up(lengths: torch.Tensor) -> torch.Tensor:
    """The next power of two; 0 stays 0."""
    return torch.exp2(lengths.double().log2().ceil()).long()


def _fill(
    histories: Histories, items: torch.Tensor, chosen: torch.Tensor, users: torch.Tensor, size: int, *, newest: bool
) -> torch.Tensor:
    """The last (or first) `size` chosen items of some users: int64 [n_users, size], n_items in front (or behind)."""
    kept = items[chosen]
    counts = _counts(histories, chosen)
    starts = (counts.cumsum(0) - counts)[users, None]
    counts = counts[users, None]
    places = torch.arange(size, device=items.device)[None]
    places = places + counts - size if newest else places.expand(len(users), size)
    inside = (places >= 0) & (places < counts)
    if not len(kept):
        return torch.full(inside.shape, histories.n_items, device=items.device)
    return torch.where(inside, kept[(starts + places).clamp(0, len(kept) - 1)], histories.n_items)


def _examples(
    history: torch.Tensor, positives: torch.Tensor, negatives: Negatives | None, users: torch.Tensor, n_items: int
) -> Examples:
    if negatives is None:
        items = torch.arange(n_items, device=users.device).expand(len(users), n_items)
        has = torch.zeros(len(users), n_items + 1, dtype=torch.float64, device=users.device)
        positive = has.scatter_(1, positives, 1.0)[:, :-1]
        asked = Asked(positive=positive, negative=1 - positive)
        return Examples(rows=users, history=history, items=items, asked=asked, n_items=n_items)
    drawn, weights = negatives.items[users], negatives.weights[users]
    there = (positives < n_items).double()
    asked = Asked(
        positive=torch.cat([there, torch.zeros_like(weights)], 1),
        negative=torch.cat([torch.zeros_like(there), weights], 1),
    )
    items = torch.cat([positives, drawn], 1)
    return Examples(rows=users, history=history, items=items, asked=asked, n_items=n_items)
