"""Losses of dp-sgd by name. Adding one is one file and one line here."""

from recsys_fed import checks
from recsys_fed.trainers.losses.bce import BCE
from recsys_fed.trainers.losses.bpr import BPR
from recsys_fed.trainers.losses.implicit_als import ImplicitALS
from recsys_fed.trainers.losses.loss import Loss
from recsys_fed.trainers.losses.sampled_softmax import SampledSoftmax
from recsys_fed.trainers.losses.softmax import Softmax

LOSSES: dict[str, Loss] = {loss.name: loss for loss in (ImplicitALS(), Softmax(), SampledSoftmax(), BCE(), BPR())}


def loss_of(name: str) -> Loss:
    """The loss of a name.

    Raises:
        ConfigurationError: there is no such loss.
    """
    checks.one_of(LOSSES, loss=name)
    return LOSSES[name]
