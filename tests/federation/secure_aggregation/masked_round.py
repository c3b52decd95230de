"""A whole round among n silos and a server in this process, with dropouts and somebody in the middle."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

import numpy as np

from recsys_fed.federation.secure_aggregation import server, silo
from recsys_fed.federation.secure_aggregation.server import unmasked_sum
from recsys_fed.federation.secure_aggregation.terms import AcceptedTerms, RoundTerms, least_threshold
from recsys_fed.signing import SigningKey

# In the order in which they pass: those of the silos, and those of the server.
UP = ("keys", "shares", "input", "confirmation", "unmasking")
DOWN = ("roster", "delivery", "survivors", "confirmations")
NEVER = len(UP)

Messages = dict[int, bytes]
# Gets the name of an exchange and its messages by silo; returns what arrives.
Meddler = Callable[[str, Messages], Messages]


@lru_cache(maxsize=4)
def identities(n: int) -> tuple[SigningKey, ...]:
    """n identity keys in the order of their public halves."""
    return tuple(sorted((SigningKey.generate() for _ in range(n)), key=lambda key: key.public_key))


def terms_of(keys: Sequence[SigningKey], **changes: object) -> RoundTerms:
    """Terms among these silos, with the least threshold unless another one is said."""
    colluding = changes.get("colluding", 0)
    plain = {
        "run": "a run",
        "round": 3,
        "request": hashlib.sha256(b"a request").hexdigest(),
        "silos": tuple(key.public_key for key in keys),
        "threshold": least_threshold(len(keys), colluding),
        "colluding": 0,
        "entries": 5,
        "bits": 33,
    }
    return RoundTerms(**(plain | changes))


def accepting(terms: RoundTerms) -> AcceptedTerms:
    """A silo's settings that agree with the terms."""
    return AcceptedTerms(admitted=frozenset(terms.silos), least_contributors=terms.contributors)


def inputs_of(terms: RoundTerms, *, seed: int = 0) -> np.ndarray:
    """Random integers [n_silos, entries] whose sum fits into the terms' bits."""
    most = 2 ** (terms.bits - 1) // len(terms.silos) - 1
    return np.random.default_rng(seed).integers(-most, most + 1, size=(len(terms.silos), terms.entries))


class Round:
    """Silos by number, step by step; a step raises what the parties raise.

    `drops[i]` is the number of the first exchange of UP that silo i misses.
    """

    def __init__(
        self,
        keys: Sequence[SigningKey],
        terms: RoundTerms,
        *,
        drops: Mapping[int, int] | None = None,
        meddler: Meddler | None = None,
    ) -> None:
        self.keys, self.terms, self.drops = keys, terms, drops or {}
        self.meddler = meddler or (lambda name, messages: messages)
        self.states: dict[int, object] = {}
        self.server: object = None
        self.sent: dict[str, Messages] = {}
        # What silos answer in the step that comes next: the same for all forks.
        self.answers: dict[int, tuple[object, bytes]] = {}

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """The whole round."""
        self.keys_step()
        self.shares_step()
        self.input_step(inputs)
        self.confirmation_step()
        return self.unmasking_step()

    def fork(self, drops: Mapping[int, int]) -> "Round":
        """The same round so far, going on with other dropouts: states are frozen, so that is possible."""
        other = Round(self.keys, self.terms, drops=drops, meddler=self.meddler)
        other.states, other.server, other.sent = dict(self.states), self.server, dict(self.sent)
        other.answers = self.answers
        return other

    def keys_step(self) -> None:
        messages = {}
        for i in self._present(range(len(self.keys)), "keys"):
            arguments = self.terms, self.keys[i], accepting(self.terms)
            self.states[i], messages[i] = self._answer(i, silo.advertise, *arguments)
        self.server, roster = server.collect_keys(self.terms, self._passed("keys", messages))
        self._send("roster", dict.fromkeys(self.states, roster))

    def shares_step(self) -> None:
        messages = self._answers("shares", "roster", silo.share)
        self.server, deliveries = server.collect_shares(self.server, self._passed("shares", messages))
        self._send("delivery", {i: deliveries[self.keys[i].public_key] for i in messages})

    def input_step(self, inputs: np.ndarray) -> None:
        messages = {}
        for i in self._present(self.sent["delivery"], "input"):
            self.states[i], messages[i] = self._answer(i, self._contribute, i, inputs[i])
        self.server, survivors = server.collect_inputs(self.server, self._passed("input", messages))
        self._send("survivors", dict.fromkeys(messages, survivors))

    def confirmation_step(self) -> None:
        messages = self._answers("confirmation", "survivors", silo.confirm)
        arrived = self._passed("confirmation", messages)
        self.server, confirmations = server.collect_confirmations(self.server, arrived)
        self._send("confirmations", dict.fromkeys(messages, confirmations))

    def unmasking_step(self) -> np.ndarray:
        messages = {
            i: self._answer(i, self._reveal, i)[1] for i in self._present(self.sent["confirmations"], "unmasking")
        }
        return unmasked_sum(self.server, self._passed("unmasking", messages))

    def survivors(self, inputs: np.ndarray) -> np.ndarray:
        """The plain sum over the silos whose input was taken."""
        listed = self.server.inputs.survivors
        return sum(inputs[i] for i, key in enumerate(self.keys) if key.public_key in listed)

    def _answers(self, up: str, down: str, step: Callable[..., tuple[object, bytes]]) -> Messages:
        messages = {}
        for i in self._present(self.sent[down], up):
            self.states[i], messages[i] = self._answer(i, step, self.states[i], self.keys[i], self.sent[down][i])
        return messages

    def _answer(self, i: int, step: Callable[..., tuple[object, bytes]], *arguments: object) -> tuple[object, bytes]:
        if i not in self.answers:
            self.answers[i] = step(*arguments)
        return self.answers[i]

    def _contribute(self, i: int, values: np.ndarray) -> tuple[object, bytes]:
        ready = silo.receive(self.states[i], self.keys[i], self.sent["delivery"][i])
        return silo.mask(ready, self.keys[i], values)

    def _reveal(self, i: int) -> tuple[object, bytes]:
        return None, silo.unmask(self.states[i], self.keys[i], self.sent["confirmations"][i])

    def _present(self, silos: Collection[int], up: str) -> list[int]:
        return [i for i in silos if self.drops.get(i, NEVER) > UP.index(up)]

    def _passed(self, name: str, messages: Messages) -> list[bytes]:
        self.answers = {}
        self._send(name, messages)
        return list(self.sent[name].values())

    def _send(self, name: str, messages: Messages) -> None:
        self.sent[name] = self.meddler(name, dict(messages))
