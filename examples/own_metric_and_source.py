"""A metric and a source of your own: how often the top of a list is right, and files with a basket a line."""

import tempfile
from pathlib import Path

import pandas as pd

from recsys_fed import Dataset, Federation, Metric, PopularItems, Source
from recsys_fed.testing import check_metric, check_source

# Of k places the first alone counts: 1 where it is a test item.
FIRST = Metric("first", lambda hits, n_relevant, k: hits[:, :1].any(dim=1).double())


def read_baskets(request):
    """Each line is a customer, a colon, and the items of one basket with blanks."""
    pairs = []
    for line in request.path.read_text(encoding="utf-8").splitlines():
        customer, _, items = line.partition(":")
        pairs += [(customer, item) for item in items.split()]
    frame = pd.DataFrame(pairs, columns=["customer", "item"])
    return Dataset.from_frame(frame, user="customer", item="item", name=request.path.stem)


BASKETS = Source(
    name="baskets",
    layout="a .baskets file: a line is CUSTOMER: ITEM ITEM ...",
    matches=lambda path: path.suffix == ".baskets" and path.is_file(),
    read=read_baskets,
)


def write_baskets(path, customers=60, items=20):
    """Item i has i customers in twenty less than the first."""
    baskets = ([f"i{i}" for i in range(items) if (7 * c + 3 * i) % 20 >= i] for c in range(customers))
    lines = [f"c{c}: {' '.join(basket)}" for c, basket in enumerate(baskets)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    check_metric(FIRST, cases=[([[True, False], [False, True]], [1, 1], 2, [1.0, 0.0])])
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.baskets"
        small.write_text("ada: tea milk\nbob: tea\n", encoding="utf-8")
        rows = [("ada", "tea", None, None), ("ada", "milk", None, None), ("bob", "tea", None, None)]
        check_source(BASKETS, small, rows=rows)
        dataset = Dataset.open(write_baskets(Path(folder) / "shop.baskets"), source=BASKETS)
        run = Federation(dataset, silos=2).train(PopularItems(), epsilon=8.0, metrics=[FIRST])
    print(f"first@20 {run.metrics['first@20']:.3f}, ndcg@20 {run.metrics['ndcg@20']:.3f}")
