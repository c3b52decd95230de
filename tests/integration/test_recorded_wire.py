"""Every byte between silos and server of a whole run, without TLS so that it can be read: no user is in it."""

import socket
import threading
from contextlib import suppress

import numpy as np
import pytest
import torch
from deployment_kit import CONFIG, USER, deployed
from real_federation import RealFederation

from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.flower import free_port
from recsys_fed.personalisation.fusion import fit_effects
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import read_silo_settings
from recsys_fed.silo.state import StateFolder
from recsys_fed.silo.told import Knowledge


class Recorder:
    """Passes bytes on between its own port and another one, and keeps them all."""

    def __init__(self, to: int) -> None:
        self.heard = bytearray()
        self._to, self._lock = to, threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError), one, other:
            while data := one.recv(1 << 16):
                with self._lock:
                    self.heard += data
                other.sendall(data)

    def close(self) -> None:
        self._server.close()


SIDES = ("left-handed-7310", "right-handed-7310")


def with_attributes(text):
    """silo.toml of a silo that lets attributes of its users and the hour into its own model."""
    text = text.replace("[silo]\n", '[silo]\npersonalisation = "silo-trusted"\n', 1)
    text = text.replace('item = "sku"\n', 'item = "sku"\ntime = "day"\n', 1)
    return text + '\n[attributes]\npath = "people.csv"\ncolumns = "side=side"\ncontext = "hour"\n'


def offered_attributes(silo):
    """The silo's own model is fitted and sealed; it was offered both."""
    settings, secret = read_silo_settings(silo), SiloSecret.load(silo / "keys" / "secret.key")
    knowledge = Knowledge.of_silo(settings, Pseudonyms(secret))
    assert knowledge.names == ("side", "hour")
    StateFolder(silo / "state", secret).personal(knowledge)
    assert list((silo / "state").glob("personal-*.sealed"))


@pytest.mark.soak
def test_nothing_private_is_on_the_wire(tmp_path):
    port = free_port()
    config = CONFIG.__class__(**{**vars(CONFIG), "secure_aggregation": "off"})
    there = deployed(tmp_path, config=config, port=port, insecure=True)
    recorder = Recorder(port)
    for silo in there.silos:
        path = silo / "silo.toml"
        path.write_text(with_attributes(path.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{recorder.port}")))
        names = [f"{USER}{row:04},{SIDES[row % 2]}" for row in range(240)]
        (silo / "people.csv").write_text("\n".join(["user,side", *names]) + "\n")
    federation = RealFederation(there, tmp_path / "logs", insecure=True)
    try:
        federation.start_all()
        training = federation.finish(federation.train())
        for silo in there.silos:
            offered_attributes(silo)
        federation.finish(federation.train())
    finally:
        federation.stop()
        recorder.close()
    heard = bytes(recorder.heard)
    model = (training / EMBEDDINGS).read_bytes()
    # It did record: the released model went to every silo.
    assert heard.count(model) >= 3
    for silo in there.silos:
        settings = read_silo_settings(silo)
        secret = SiloSecret.load(silo / "keys" / "secret.key")
        state = StateFolder(silo / "state", secret).users()
        private = [USER.encode(), str(silo).encode(), b"interactions.csv", settings.data.path.encode()]
        private += [name.encode() for name in state.users.tolist()]
        private += [side.encode() for side in SIDES] + [b"people.csv"]
        # What the attributes and the hour would add, whether it was taken or not.
        told = Knowledge.of_silo(settings, Pseudonyms(secret)).of(state.users, state.histories)
        for name in told.names:
            effects = fit_effects(state.histories.matrix(), told, name, users=np.arange(len(state.users)))
            private += [row.tobytes() for row in effects.table]
        private.append(state.histories.signals.time.numpy()[:8].tobytes())
        private += [Pseudonyms(secret).of(f"{USER}{0:04}").encode(), secret.derive_key("user pseudonyms")]
        # The vector of a user with one item is that item's, which is public.
        several = np.diff(state.histories.starts) > 1
        private += [row.tobytes() for row in state.vectors.numpy()[several] if row.any()]
        private += [path.read_bytes().split(b"\n")[1] for path in (silo / "keys").glob("*.key")]
        # Item lists of users with more than three items, in every width of integers.
        for row in range(len(state.users)):
            items = np.sort(state.histories.rows(torch.tensor([row])).items)
            private += [items.astype(kind).tobytes() for kind in ("<i4", "<i8") if len(items) > 3]
        for secret_bytes in private:
            assert secret_bytes not in heard, secret_bytes[:40]
