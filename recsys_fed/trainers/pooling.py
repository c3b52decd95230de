"""What earlier trainings have released, pooled with what this one releases: post-processing of released tables.

Everything here is a function of released tables, of the noise that is known to be on them, and of public numbers; the
module imports nothing that holds a user (an import contract says so). So it costs no budget, whoever runs it.

A round of a subspace releases Y = C W + s N: C the second moment of users' histories, W what was asked with, N of
independent standard normal entries. Of rounds t, all that they say of C is in

    sum_t Y_t W_t^T / s_t^2      and      sum_t W_t W_t^T / s_t^2 = Q diag(g^2) Q^T

so in one table B = C A + N with A = Q diag(g), which has the columns Q that were asked for and as little noise in
them as all rounds together leave (`Products`). Columns of which little was asked hold little but noise and are left
out. Trainings need not have asked for the same rows: a row that one has not released is zero in both of its tables.

Tastes change, and what was released before they did says less of today. C is symmetric, so a training t and the
newest K both say what Q_K^T C Q_t is, each with noise of known size. What they disagree by beyond it, D, is drift;
an earlier training counts as if the drift were further noise on its tables,

    lambda_t = n / (n + 4 r s)     n, s the energies of its noise and of its signal; r = |D|^2 / (what both say)^2

and r = 0 where D is within what noise explains. The factor is there because drift is in few directions and noise in
all. Counts are weighed by their drift itself, all of which is seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

# Columns of A shorter than this part of the longest are left out; chosen on the validation part of random90.
_LEAST_ASKED = 0.15
# Standard deviations that noise explains.
_EXPLAINED = 3.0
# What drift counts beside noise of its energy; chosen on the validation part of random90 with tastes exchanged.
_DRIFT = 4.0
# How far the scale of a training's tables may be from that of the newest one's.
_SCALES = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedTable:
    """One release of a training: a noisy sum over users, and what it was asked with. Public once it is released.

    Attributes:
        stage: of the trainer's plan.
        rows: of the catalogue, ascending, int64 [n_rows]; one for each row of the sum.
        total: the noisy sum, float64 [n_rows, columns].
        noise_std: standard deviation of the noise on each of its entries.
        asked: W, float64 [n_rows, columns]; None where the stage asks with none.
    """

    stage: str
    rows: torch.Tensor
    total: torch.Tensor
    noise_std: float
    asked: torch.Tensor | None = None


def released_table(
    stage: str, total: torch.Tensor, *, noise_std: float, tables: Mapping[str, torch.Tensor]
) -> ReleasedTable:
    """A release as later trainings read it: "head" and "subspace" of its request's tables are its rows and W."""
    rows = tables["head"] if "head" in tables else torch.arange(len(total))
    asked = tables.get("subspace")
    return ReleasedTable(
        stage=stage,
        rows=rows.cpu().clone(),
        total=total.double().cpu().clone(),
        noise_std=noise_std,
        asked=None if asked is None else asked.double().cpu().clone(),
    )


def remap(table: ReleasedTable, row_now: torch.Tensor) -> ReleasedTable:
    """The release over another catalogue; items that it lacks are left out.

    Args:
        table: over the rows of the catalogue of its time.
        row_now: for each of those rows the one of the same item now, int64 [n_items then]; -1 for none.
    """
    rows = row_now[table.rows]
    there = torch.nonzero(rows >= 0)[:, 0]
    order = there[rows[there].argsort()]
    asked = None if table.asked is None else table.asked[order]
    return replace(table, rows=rows[order], total=table.total[order], asked=asked)


def pool_counts(
    newest: torch.Tensor, earlier: Sequence[ReleasedTable], *, noise_std: float
) -> tuple[torch.Tensor, float]:
    """Sums by item pooled by their noise: float64 [n_items, columns], and the noise that is left on an entry.

    Args:
        newest: the noisy sums of this training, [n_items, columns].
        earlier: of the same stage, oldest first; in units of their own, as users had fewer interactions.
        noise_std: on each entry of the newest.

    Rows that an earlier training lacks, as their items are new, are the newest one's alone.
    """
    if noise_std <= 0 or not earlier:
        return newest, noise_std
    weights = torch.full((len(newest), 1), noise_std**-2, dtype=torch.float64)
    total = newest.double() / noise_std**2
    for table in earlier:
        now = newest[table.rows].double()
        # Sums of noise are small beside sums of counts: the scale is right to a small part of a percent.
        scale = float(now[:, 0].sum() / table.total[:, 0].sum())
        if not 0 < scale < float("inf") or table.total.shape[1] != newest.shape[1]:
            continue
        known = (scale * table.noise_std) ** 2
        excess = _excess(scale * table.total - now, torch.tensor(known + noise_std**2, dtype=torch.float64))
        weight = 1 / (known + excess / now.numel())
        total[table.rows] += weight * scale * table.total
        weights[table.rows] += weight
    return total / weights, float(weights.median() ** -0.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """Noisy products B = C A + N with independent noise of standard deviation 1.

    Attributes:
        asked: A, float64 [n_rows, columns].
        table: B, the same shape.
    """

    asked: torch.Tensor
    table: torch.Tensor


def product(asked: torch.Tensor, table: torch.Tensor, *, noise_std: float, traced: bool = True) -> Products:
    """One release as `Products`.

    Users' terms are scaled to one length, so the size of C that a round sees depends on W. Where W asks along C, the
    trace of W^T Y is the sum of the users' lengths ||W^T x||: over it, tables of all rounds have one scale. A round
    that is all noise, with a trace that is not above zero, says nothing: its W is zero. Without its diagonal C has a
    trace of either sign; then (`traced` = False) W is left as it is.
    """
    size = float((asked * table).sum()) if traced else 1.0
    level = noise_std or 1.0
    return Products(asked=asked / (max(size, 1e-300) * level) if size > 0 else 0 * asked, table=table / level)


def over_rows(products: Products, rows: torch.Tensor, *, now: torch.Tensor) -> Products:
    """The same products over the rows `now` of the catalogue, ascending; those that were not released are zero."""
    places = torch.searchsorted(now, rows).clamp_max(len(now) - 1)
    there = now[places] == rows
    empty = products.table.new_zeros(len(now), products.table.shape[1])
    asked, table = empty.clone(), empty
    asked[places[there]], table[places[there]] = products.asked[there], products.table[there]
    return Products(asked=asked, table=table)


def products_of(
    releases: Sequence[ReleasedTable],
    *,
    now: torch.Tensor,
    prepare: Callable[[ReleasedTable], torch.Tensor] = lambda table: table.total,
    traced: bool = True,
) -> Products | None:
    """What one training has released of C W over the rows `now`; None for nothing.

    Args:
        releases: of the training, of one stage.
        now: rows of the catalogue, ascending, int64.
        prepare: gives the sum to use.
        traced: see `product`.
    """
    found = [
        over_rows(
            product(table.asked, prepare(table), noise_std=table.noise_std, traced=traced),
            table.rows,
            now=now,
        )
        for table in releases
        if table.asked is not None
    ]
    found = [one for one in found if bool(one.asked.any())]
    return side_by_side(found) if found else None


def side_by_side(products: Sequence[Products]) -> Products:
    """Products of the same C in one: columns next to each other."""
    return Products(
        asked=torch.cat([one.asked for one in products], dim=1),
        table=torch.cat([one.table for one in products], dim=1),
    )


def pool_products(trainings: Sequence[Products]) -> Products:
    """All that trainings say of the newest one's C, see the module: A = Q diag(g) with orthogonal columns.

    Args:
        trainings: one or more, oldest first, all over the same rows.
    """
    newest = _Sufficient.of(trainings[-1])
    kept = [_discount(one, newest) for one in trainings[:-1]]
    pooled = _Sufficient.of(side_by_side([*kept, trainings[-1]]))
    if not len(pooled.sizes):
        return trainings[-1]
    return Products(asked=pooled.basis * pooled.sizes, table=pooled.table)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sufficient:
    """B = C Q diag(g) + N.

    Attributes:
        basis: Q, orthonormal, [n_rows, k]; sizes: g, [k]; table: B, [n_rows, k].
    """

    basis: torch.Tensor
    sizes: torch.Tensor
    table: torch.Tensor

    @classmethod
    def of(cls, products: Products) -> "_Sufficient":
        """W = Q diag(g) R^T side by side; the noise of Y R is as independent as that of Y."""
        left, sizes, right = torch.linalg.svd(products.asked, full_matrices=False)
        count = int((sizes > _LEAST_ASKED * sizes[0]).sum()) if len(sizes) else 0
        return cls(basis=left[:, :count], sizes=sizes[:count], table=products.table @ right[:count].T)


def _discount(earlier: Products, newest: _Sufficient) -> Products:
    """An earlier training's products with the weight lambda of the module, as a factor of A and B."""
    old = _Sufficient.of(earlier)
    if not len(old.sizes) or not len(newest.sizes):
        return earlier
    then = newest.basis.T @ (old.table / old.sizes)
    now = (newest.table / newest.sizes).T @ old.basis
    variance_then = (1 / old.sizes.square())[None, :].expand_as(then)
    variance_now = (1 / newest.sizes.square())[:, None].expand_as(then)
    weights = 1 / (variance_then + variance_now)
    along, length = float((weights * then * now).sum()), float((weights * (then.square() - variance_then)).sum())
    scale = min(max(along / length, _SCALES[0]), _SCALES[1]) if length > 0 else 1.0
    excess = _excess(scale * then - now, scale**2 * variance_then + variance_now)
    said = float((scale**2 * (then.square() - variance_then) + now.square() - variance_now).sum())
    rate = min(excess / said, 1.0) if said > 0 else 0.0
    noise = float(len(old.basis) * variance_then[0].sum())
    signal = max(float((old.table / old.sizes).square().sum()) - noise, 0.0)
    weight = (noise / (noise + _DRIFT * rate * signal)) ** 0.5
    # Of noise below 1 where the weight is: what is left of it counts as little as what is left of the signal.
    return Products(asked=weight * earlier.asked, table=weight * earlier.table)


def _excess(difference: torch.Tensor, variance: torch.Tensor) -> float:
    """Energy of a difference beyond what noise of these variances explains; 0 within its spread."""
    variances = variance.expand_as(difference)
    excess = float((difference.square() - variances).sum())
    return excess if excess > _EXPLAINED * float((2 * variances.square()).sum()) ** 0.5 else 0.0
