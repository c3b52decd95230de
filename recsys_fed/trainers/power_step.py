"""One step of subspace iteration over users' histories: each user's bounded term, and their exact sum.

With x_u = D h_u the damped history of user u over the head items, q the direction of popularity (||q|| = 1), and
W [n_head, k] the current subspace, a user's term is the rank-one matrix

    (x_u - a_u q) z_u^T        a_u = q^T x_u,   z_u = c_u W^T x_u

One pass over a block of users gives [W^T x_u, a_u, ||x_u||^2] of all of them as sums of rows of one table, and one
sparse product gives H^T Z, from which the sum is D (H^T Z) - q (sum_u a_u z_u)^T: damping and q wait until the end,
so that what is summed over users is integers (see `exact_sum`).
"""

from threading import Lock

import torch

from recsys_fed import checks
from recsys_fed.models.histories import Histories, positions
from recsys_fed.models.user_blocks import UserHistories, for_each_block
from recsys_fed.privacy.clipping import MODES
from recsys_fed.trainers.exact_sum import LONGEST, UNIT, add_by_item, in_units
from recsys_fed.trainers.trainer import Tables

_FLOAT32_ROUNDING = 2.0**-24
_MARGIN = 1e-6


def power_step(
    tables: Tables, histories: UserHistories, *, l2_clip_norm: float, mode: str = "automatic"
) -> torch.Tensor:
    """Sum over users of terms, each scaled ("automatic") or clipped ("flat") to l2_clip_norm: float64 [n_head, k].

    Args:
        tables: head int64 [n_head] ascending, damping and direction float32 [n_head], subspace float32 [n_head, k].
        histories: of the silo's users.
        l2_clip_norm: what a user may add.
        mode: see `privacy.clipping`; "flat" clips the term of the history scaled to norm 1.

    Guarantees:
        - Unit: a user. Neighbouring relation: add or remove one user. The L2 (Frobenius) sensitivity is l2_clip_norm,
          whatever the tables hold: ||x_u - a_u q|| is bounded from above including the rounding of the float32
          sums that it is computed from, z_u is cut off towards zero, and the sum is exact.
        - A user's term depends on that user's history and on the tables only. A user without an item of the head,
          and one whose term overflows, counts for nothing.
        - Blocks, threads, and the order of users do not change a bit of the result. It is finite: |a_u| ||z_u|| is
          below 2^10, as c_u ||W^T x_u|| <= 1 / (||x_u|| sqrt(5 g)) with g >= 5 2^-24, and int64 holds 2^27 users.
        - Assumes that no user has an item twice (`data.silo` sums up duplicates). With 2^22 items none counts.
    """
    checks.positive(l2_clip_norm=l2_clip_norm)
    checks.one_of(MODES, mode=mode)
    damping, direction, table = _scaled(tables)
    n_head, k = tables["subspace"].shape
    places = positions(tables["head"], histories.n_items, dtype=torch.int32)
    places[places < 0] = n_head
    by_item = torch.zeros(n_head, k, dtype=torch.int64, device=damping.device)
    along = torch.zeros(k, dtype=torch.int64, device=damping.device)
    adding = Lock()

    def work(_: int, block: Histories) -> None:
        sums = _row_sums(table, places, block).double()
        scale = _scales(sums, block, direction=direction, l2_clip_norm=l2_clip_norm, mode=mode)
        units = in_units(sums[:, :k] * scale[:, None])
        add_by_item(by_item, block, units, rows=tables["head"], adding=adding)
        centred = units.mul_(sums[:, k, None].nan_to_num_(0.0, 0.0, 0.0)).trunc_().long().sum(0)
        with adding:
            along.add_(centred)

    for_each_block(histories, work)
    total = damping[:, None] * by_item - direction[:, None] * along
    return total * (UNIT * l2_clip_norm)


def _scaled(tables: Tables) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Damping over its largest, q over its length (both float64), and rows [D W, D q, D^2], zeros last, in float32.

    The term of a user is the same whatever the scale of both; the bounds below need them of size one.
    """
    damping, direction = tables["damping"].double(), tables["direction"].double()
    largest = damping.abs().max() if len(damping) else damping.sum()
    damping = (damping / largest.clamp_min(torch.finfo(torch.float32).tiny)).float().double()
    direction = direction / direction.norm().clamp_min(1e-300)
    columns = [damping[:, None] * tables["subspace"].double(), (damping * direction)[:, None]]
    rows = torch.cat([*columns, damping.square()[:, None]], dim=1).float()
    return damping, direction, torch.nn.functional.pad(rows, (0, 0, 0, 1))


def _row_sums(table: torch.Tensor, places: torch.Tensor, block: Histories) -> torch.Tensor:
    """Sum of the rows of `table` over each user's items: float32 [n_users, columns], each user by one thread."""
    if not len(block.items):
        return torch.zeros(block.n_users, table.shape[1], device=table.device)
    columns, offsets = places.index_select(0, block.items), block.starts[:-1].to(places.dtype)
    return torch.nn.functional.embedding_bag(columns, table, offsets, mode="sum")


def _scales(
    sums: torch.Tensor, block: Histories, *, direction: torch.Tensor, l2_clip_norm: float, mode: str
) -> torch.Tensor:
    """c_u in clip norms, float64 [n_users]: c_u ||W^T x_u|| ||x_u - a_u q|| <= 1.

    With S = ||x_u||^2 and a = q^T x_u as computed in float32 (relative to the sum of the terms' sizes each is right
    to g = (n_u + 4) 2^-24, in whatever order they are added), the true norm fulfils, for g <= 1/4 and ||q|| = 1,

        ||x_u - a q||^2 = S_true - 2 a a_true + a^2 ||q||^2 <= S - a^2 + 5 g S

    Where weights are so small that float32 has no digits for their squares, c_u ||W^T x_u|| <= LONGEST is the bound.
    Who is parallel to q but for less than sqrt(5 g) of ||x_u|| counts for less than the clip norm, not for more.
    """
    k = sums.shape[1] - 2
    along, squares = sums[:, k], sums[:, k + 1]
    rounding = _FLOAT32_ROUNDING * (block.starts.diff().double() + 4)
    q_square = float(direction @ direction)
    left = (squares - (2 - q_square) * along.square()).clamp_min(0) + 5 * rounding * squares
    # Cutting off a_u z_u adds at most one unit in each of k columns.
    inverse = 1 / (left.sqrt() * (1 + _MARGIN + UNIT * k**0.5))
    sizes = sums[:, :k].norm(dim=1)
    lengths = inverse if mode == "automatic" else torch.minimum(inverse, sizes / (squares * l2_clip_norm))
    usable = (rounding < 0.25) & (sizes > 0) & (sizes + squares + along).isfinite()
    return torch.where(usable, lengths.clamp_max(LONGEST) / sizes, 0.0)
