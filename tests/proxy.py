"""A proxy on loopback that tunnels TLS to this machine, whatever name is asked for, and counts."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def tunnelling_proxy() -> Iterator[tuple[int, list[str]]]:
    """Gives its port, and a list that grows with the head of each CONNECT."""
    heads: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, heads), daemon=True).start()
        yield server.getsockname()[1], heads


def _accept(server: socket.socket, heads: list[str]) -> None:
    with suppress(OSError):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_tunnel, args=(connection, heads), daemon=True).start()


def _tunnel(connection: socket.socket, heads: list[str]) -> None:
    with connection, suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(4096)
            if not part:
                return
            head += part
        heads.append(head.decode("ascii", "replace"))
        port = int(heads[-1].split(" ")[1].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as target:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_copy, args=(target, connection), daemon=True)
            back.start()
            _copy(connection, target)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
