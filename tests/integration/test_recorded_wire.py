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
from recsys_fed.silo.secret import Pseudonyms, SiloSecret
from recsys_fed.silo.settings import read_silo_settings
from recsys_fed.silo.state import StateFolder


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


@pytest.mark.soak
def test_nothing_private_is_on_the_wire(tmp_path):
    port = free_port()
    config = CONFIG.__class__(**{**vars(CONFIG), "secure_aggregation": "off"})
    there = deployed(tmp_path, config=config, port=port, insecure=True)
    recorder = Recorder(port)
    for silo in there.silos:
        path = silo / "silo.toml"
        path.write_text(path.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{recorder.port}"))
    federation = RealFederation(there, tmp_path / "logs", insecure=True)
    try:
        federation.start_all()
        training = federation.finish(federation.train())
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
