"""What users whose histories are public add to the sums of a training, at no cost.

They are in no silo (`catalogue.items.PublicUsers`). The server computes what they would contribute to a round, A_p of
n_p users, as a silo does, but without noise. Of the same sum over the N declared users there are then two estimates,

    A + noise of std s     from the silos
    (N / n_p) A_p          from a sample, in which each user adds C, the clip norm, spread over m entries: its error
                           is about t = SPREAD (N / n_p) C sqrt(n_p / m) an entry

The trainer goes on with their mean weighed by 1 / s^2 and 1 / t^2, whose noise has a standard deviation of
s t / sqrt(s^2 + t^2). It is post-processing of releases and of public data: who is in a silo is protected as before.
Where there is no noise they add nothing.

SPREAD^2 is above 1 because public users differ from the others, and because their error is on the entries that they
have, not everywhere alike. It was chosen on the validation part of the UltraGCN split (docs/adr/0039).
"""

import math
from collections.abc import Sequence

import torch

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.errors import ConfigurationError
from recsys_fed.models.histories import Histories
from recsys_fed.trainers import ordered
from recsys_fed.trainers.trainer import Stage, Trainer

_SPREAD_SQUARED = 4.0


def histories_of_public_users(catalogue: Catalogue) -> Histories | None:
    """The histories of a catalogue's public users; None where there are none."""
    users = catalogue.public_users
    if users is None:
        return None
    sizes = torch.tensor([len(some) for some in users.of_item], dtype=torch.int64)
    item = torch.repeat_interleave(torch.arange(catalogue.n_items, dtype=torch.int32), sizes)
    user = torch.tensor([number for some in users.of_item for number in some], dtype=torch.int64)
    order = torch.argsort(user, stable=True)
    starts = torch.zeros(users.n_users + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(user, minlength=users.n_users).cumsum(0)
    return Histories(items=item[order], starts=starts, n_items=catalogue.n_items)


def check_public_users(stages: Sequence[Stage], trainer: Trainer) -> None:
    """Refuse public users where their sums would not be those of the silos' users.

    Raises:
        ConfigurationError: a round reads order or values, which public users have not, samples users, or adds noise
            step by step.
    """
    if "value" in trainer.reads or any(stage.name == ordered.STAGE for stage in stages):
        raise ConfigurationError(
            "Expected no public users where order or ratings are read: a table of them has neither. Take a catalogue "
            "without public users, or target = any with order = off."
        )
    if any(stage.noise_inside or stage.release.sampling_probability < 1 for stage in stages):
        raise ConfigurationError(
            f"Expected no public users with the trainer {trainer.name}: its rounds are no sums over all users. Take "
            "trainer = auto or spectral, or a catalogue without public users."
        )


def with_public_users(
    total: torch.Tensor,
    noise_std: float,
    *,
    public: torch.Tensor,
    users: int,
    declared_users: int,
    l2_clip_norm: float,
) -> tuple[torch.Tensor, float]:
    """The mean of both estimates of the module, float64 [rows, columns], and the standard deviation of its noise.

    Args:
        total: A with noise. noise_std: s.
        public: A_p. users: n_p. declared_users: N. l2_clip_norm: C.
    """
    if not noise_std or not users or not public.numel():
        return total, noise_std
    scale = declared_users / users
    spread = _SPREAD_SQUARED * (scale * l2_clip_norm) ** 2 * users / public.numel()
    weight = noise_std**2 / (noise_std**2 + spread)
    mean = (1 - weight) * total.double() + weight * scale * public.to(total.device).double()
    return mean, noise_std * math.sqrt(1 - weight)
