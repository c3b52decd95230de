"""What a silo keeps of a finished training: the global model, and its users' vectors and histories, sealed.

    model-HASH.safetensors   the released item embeddings: public
    users-HASH.sealed        pseudonyms, vectors and histories of the silo's users for that model: encrypted; of a
                             silo that is read in blocks those of the first block, with .1, .2 ... of the others
    personal-HASH.sealed     the silo's own model beside it, for personalisation = "silo-trusted": encrypted
    residual-HASH.npy        the same as `silo residual` writes it for the silo's service: not encrypted
    effects-HASH.npz         beside it, effects of attributes and contexts: not encrypted
    waiting.safetensors      a released model that could not be taken in yet: the disk was full, or a crash came
    current.json             which HASH is in use, in how many parts; replaced last: a crash leaves the one before

HASH is the SHA-256 of the model's file, 16 digits of it in names. User vectors of one model are never used with
another: the sealed file's label is the whole hash.

The silo's own model beside the released one, for "silo-trusted", is fitted to its users, kept sealed, never released.
It follows from what the silo keeps of a training, so it is made when it is first asked for.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load, save

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.context import write_effects
from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError
from recsys_fed.files import OWNER_ONLY, whole_file, write_whole
from recsys_fed.models.histories import Histories, Signals, join_signals
from recsys_fed.models.items import ItemEmbeddings, load_item_embeddings, user_vectors
from recsys_fed.models.stored_histories import SIGNALS
from recsys_fed.personalisation.next_item import NextItemModel
from recsys_fed.personalisation.silo_model import AS_RELEASED
from recsys_fed.signing import sha256
from recsys_fed.silo._own_model import (
    OwnModel,
    asked_of,
    effects_of,
    fit_own_model,
    fit_unordered_model,
    pack_model,
    residual_of,
    unpack_model,
)
from recsys_fed.silo.secret import SiloSecret, read_sealed, write_sealed
from recsys_fed.silo.told import Knowledge

if TYPE_CHECKING:
    from recsys_fed.silo.interactions import Part


_PURPOSE, _CURRENT, _WAITING = "stored state", "current.json", "waiting.safetensors"
# What was asked for beside attributes and contexts, whose names have no space.
_SELF_ATTENTION = "self attention"
_DIGITS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class UserState:
    """Users of one silo under one global model.

    Attributes:
        users: pseudonyms, object array of str [n_users].
        vectors: float32 [n_users, embedding_dim].
        histories: what they have interacted with, held-out interactions included; with the signals that were read.
    """

    users: npt.NDArray[np.object_]
    vectors: torch.Tensor
    histories: Histories

    def row_of(self, pseudonym: str) -> int | None:
        """The row of a user, or None."""
        found = np.flatnonzero(self.users == pseudonym)
        return int(found[0]) if len(found) else None


class StateFolder:
    """The folder of a silo's state."""

    def __init__(self, folder: Path, secret: SiloSecret) -> None:
        self._folder, self._key = folder, secret.derive_key(_PURPOSE)

    def check(self, content: bytes, catalogue: Catalogue) -> None:
        """Refuse what is no released model of this catalogue; nothing private is read.

        Raises:
            DataFormatError: it is something else, or a model of other items.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with TemporaryDirectory(dir=self._folder, suffix=".part") as place:
            path = Path(place) / "model.safetensors"
            write_whole(path, content)
            try:
                model = load_item_embeddings(path)
            except DataFormatError as error:
                raise DataFormatError("Expected the released item embeddings, got something else.") from error
        if (model.catalogue_hash, model.n_items) != (catalogue.content_hash, catalogue.n_items):
            raise DataFormatError("Expected item embeddings of the agreed catalogue, got those of another.")

    def take(self, content: bytes) -> None:
        """Put a released model on the disk, for `keep`: its size is public, unlike that of what is sealed for it."""
        write_whole(self._folder / _WAITING, content)

    def waiting(self) -> bytes | None:
        """The model that `keep` could not take in."""
        path = self._folder / _WAITING
        return path.read_bytes() if path.is_file() else None

    def keep(self, content: bytes, parts: "Iterable[Part]") -> str:
        """Take in a released model: fold in all users, seal them, and make it the current one; returns its hash.

        Args:
            content: the model's file.
            parts: pseudonyms [n_users] and histories of some users at a time.

        Raises:
            DataFormatError: the content is no model, or one of another number of items.
        """
        model_hash = sha256(content)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # First: whatever is sealed for a model is found by the model's file, to take users out of it.
        write_whole(self._model(model_hash), content)
        model, count = load_item_embeddings(self._model(model_hash)), 0
        for number, (users, histories) in enumerate(parts):
            self._seal(model, model_hash, number, users=users, histories=histories)
            count = number + 1
        self._remove_own(model_hash)
        self._make_current(model_hash, parts=count)
        if self.waiting() == content:
            (self._folder / _WAITING).unlink()
        return model_hash

    def _seal(
        self,
        model: ItemEmbeddings,
        model_hash: str,
        number: int,
        *,
        users: npt.NDArray[np.object_],
        histories: Histories,
    ) -> None:
        if model.n_items != histories.n_items:
            raise DataFormatError(f"Expected a model of {histories.n_items} items, got {model.n_items}.")
        vectors = user_vectors(model, histories)
        self._write(model_hash, number, UserState(users=users, vectors=vectors, histories=histories))

    def _write(self, model_hash: str, number: int, state: UserState) -> None:
        write_sealed(self._users(model_hash, number), _pack(state), key=self._key, label=_label(model_hash, number))

    def current(self) -> str:
        """Hash of the model in use; raises DataNotFoundError where there is none yet."""
        path = self._folder / _CURRENT
        if not path.is_file():
            raise DataNotFoundError(f"There is no trained model in {self._folder}. Take part in training.")
        return str(json.loads(path.read_text())["model"])

    def model(self) -> ItemEmbeddings:
        """The global model in use; raises DataFormatError if its file is not the one that was kept."""
        model_hash = self.current()
        path = self._model(model_hash)
        if not path.is_file() or sha256(path.read_bytes()) != model_hash:
            raise DataFormatError(f"The model {model_hash[:_DIGITS]} at {path} is missing or was changed.")
        return load_item_embeddings(path)

    def users(self) -> UserState:
        """All users under the model in use; see `read_sealed` for what it refuses."""
        model_hash = self.current()
        count = int(json.loads((self._folder / _CURRENT).read_text())["parts"])
        return _join([self._open(model_hash, number) for number in range(count)])

    def _open(self, model_hash: str, number: int) -> UserState:
        sealed = read_sealed(self._users(model_hash, number), key=self._key, label=_label(model_hash, number))
        return _unpack(sealed)

    def personal(self, knowledge: Knowledge | None = None, *, self_attention: bool = False) -> OwnModel:
        """The silo's own model beside the one in use, fitted to all users when it is first asked for, and sealed.

        Private to the silo, and no function of each user's own history alone: for "silo-trusted" only. It is fitted
        anew where other attributes or contexts than those of `knowledge` were offered to it, or where self-attention
        was tried and is not to be, or the other way round.
        """
        model_hash, released = self.current(), self.model()
        path, label = self._personal(model_hash), f"personal {model_hash}"
        asked = (knowledge.names if knowledge is not None else ()) + (_SELF_ATTENTION,) * self_attention
        if path.is_file():
            content = read_sealed(path, key=self._key, label=label)
            if asked_of(content) == asked:
                return unpack_model(content, released)
        state = self.users()
        model = fit_own_model(
            state.users, state.histories, released, knowledge, purpose=label, self_attention=self_attention
        )
        write_sealed(path, pack_model(model, asked), key=self._key, label=label)
        return model

    def write_residual(self, knowledge: Knowledge | None = None) -> Path:
        """Write the silo's own model as the tables that its service reads, mode 0600, each whole or not at all.

        The service scores the released model as it is, by vectors: where the silo's own model does otherwise, or runs
        a module with private parts, the best that does not is written instead.

        Raises:
            ConfigurationError: it is a model of the next item, which the service does not read.
        """
        model_hash = self.current()
        path, model = self._residual(model_hash), self.personal(knowledge)
        if isinstance(model, NextItemModel):
            raise ConfigurationError(
                "A silo's own model of the next item cannot be written for its service. `silo recommend` and `silo "
                "export` use it. For the service set personalisation = user-only: it serves the released model."
            )
        if model.recipe.shown != AS_RELEASED or model.parts is not None:
            state, purpose = self.users(), f"personal {model_hash}"
            vectors = replace(self.model(), module=None)
            model = fit_unordered_model(
                state.users, state.histories, vectors, knowledge, purpose=purpose, ways=(AS_RELEASED,)
            )
        # First what is beside it: the service takes over once the residual is there.
        self._effects(model_hash).unlink(missing_ok=True)
        if model.fusion is not None:
            with whole_file(self._effects(model_hash), mode=OWNER_ONLY) as file:
                write_effects(file, effects_of(model))
        with whole_file(path, mode=OWNER_ONLY) as file:
            np.save(file, residual_of(model))
        return path

    def user_record(self, pseudonym: str, catalogue: Catalogue) -> list[dict[str, Any]]:
        """What is kept of a user, of each model that is kept, as JSON values: vector and history; for that user."""
        found = []
        for model_hash, number in self._sealed_parts():
            state = self._open(model_hash, number)
            row = state.row_of(pseudonym)
            if row is not None:
                own = state.histories.rows(torch.tensor([row]))
                found.append(
                    {
                        "model": model_hash,
                        "vector": state.vectors[row].tolist(),
                        # A model of an older catalogue has its first items.
                        "history": catalogue.item_ids[own.items.numpy()].tolist(),
                    }
                )
        return found

    def _sealed_parts(self) -> Iterator[tuple[str, int]]:
        """Hash of the model and number of every sealed file of users."""
        for path in sorted(self._folder.glob("model-*.safetensors")):
            model_hash, number = sha256(path.read_bytes()), 0
            while self._users(model_hash, number).is_file():
                yield model_hash, number
                number += 1

    def remove_users(self, pseudonyms: frozenset[str]) -> int:
        """Take users out of every version that is kept, and let go of the own models that were fitted with them.

        An own model is fitted anew, to those who are left, when it is next asked for; a residual is for `silo
        residual` to write anew. A crash leaves a file as it was: the next call goes on.

        Returns how many sealed files held one of them.
        """
        changed = 0
        for model_hash, number in self._sealed_parts():
            state = self._open(model_hash, number)
            kept = np.array([name not in pseudonyms for name in state.users.tolist()], dtype=bool)
            if kept.all():
                continue
            # First what was fitted with them, so that a crash in between leaves nothing of it.
            self._remove_own(model_hash)
            self._write(model_hash, number, _keep_users(state, kept))
            changed += 1
        return changed

    def _make_current(self, model_hash: str, *, parts: int) -> None:
        """Point to a version; those before the last one are removed."""
        before = self.current() if (self._folder / _CURRENT).is_file() else model_hash
        write_whole(self._folder / _CURRENT, json.dumps({"model": model_hash, "parts": parts}))
        kept = {name[:_DIGITS] for name in (before, model_hash)}
        for pattern in (
            "model-*.safetensors",
            "users-*.sealed",
            "personal-*.sealed",
            "residual-*.npy",
            "effects-*.npz",
        ):
            for path in self._folder.glob(pattern):
                if path.name.partition("-")[2].partition(".")[0] not in kept:
                    path.unlink(missing_ok=True)

    def _model(self, model_hash: str) -> Path:
        return self._folder / f"model-{model_hash[:_DIGITS]}.safetensors"

    def _users(self, model_hash: str, number: int) -> Path:
        part = f".{number}" if number else ""
        return self._folder / f"users-{model_hash[:_DIGITS]}{part}.sealed"

    def _personal(self, model_hash: str) -> Path:
        return self._folder / f"personal-{model_hash[:_DIGITS]}.sealed"

    def _residual(self, model_hash: str) -> Path:
        return self._folder / f"residual-{model_hash[:_DIGITS]}.npy"

    def _effects(self, model_hash: str) -> Path:
        return self._folder / f"effects-{model_hash[:_DIGITS]}.npz"

    def _remove_own(self, model_hash: str) -> None:
        """What was fitted to the users of a model's state."""
        for path in (self._residual(model_hash), self._effects(model_hash), self._personal(model_hash)):
            path.unlink(missing_ok=True)


def _label(model_hash: str, number: int) -> str:
    """What a sealed file is: no part can be put in the place of another."""
    return f"{model_hash} part {number}" if number else model_hash


def _keep_users(state: UserState, kept: npt.NDArray[np.bool_]) -> UserState:
    rows = torch.from_numpy(np.flatnonzero(kept))
    return UserState(users=state.users[kept], vectors=state.vectors[rows], histories=state.histories.rows(rows))


def _join(parts: list[UserState]) -> UserState:
    if len(parts) == 1:
        return parts[0]
    histories = [part.histories for part in parts]
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), *(part.starts.diff() for part in histories)]).cumsum(0)
    return UserState(
        users=np.concatenate([part.users for part in parts]),
        vectors=torch.cat([part.vectors for part in parts]),
        histories=Histories(
            items=torch.cat([part.items for part in histories]),
            starts=starts,
            n_items=histories[0].n_items,
            signals=join_signals([part.signals for part in histories]),
        ),
    )


def _pack(state: UserState) -> bytes:
    histories = state.histories
    signals = {} if histories.signals is None else histories.signals.columns()
    return save(
        {
            "users": np.frombuffer("\n".join(state.users.tolist()).encode(), dtype=np.uint8),
            "vectors": state.vectors.detach().cpu().float().numpy(),
            "starts": histories.starts.cpu().numpy(),
            "items": histories.items.cpu().int().numpy(),
            "shape": np.array([histories.n_users, histories.n_items], dtype=np.int64),
            **{name: column.cpu().numpy() for name, column in signals.items()},
        }
    )


def _unpack(content: bytes) -> UserState:
    tensors = load(content)
    text = tensors["users"].tobytes().decode()
    names = text.split("\n") if text else []
    users = np.empty(len(names), dtype=object)
    users[:] = names
    signals = {name: torch.from_numpy(tensors[name]) for name in SIGNALS if name in tensors}
    histories = Histories(
        items=torch.from_numpy(tensors["items"]),
        starts=torch.from_numpy(tensors["starts"]),
        n_items=int(tensors["shape"][1]),
        signals=Signals(**signals) if signals else None,
    )
    return UserState(users=users, vectors=torch.from_numpy(tensors["vectors"]), histories=histories)
