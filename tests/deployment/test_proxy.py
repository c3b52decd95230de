"""A silo behind an outbound proxy asks through it, and never for what is on its own machine."""

import http.server
import ssl
import threading
from contextlib import contextmanager

import pytest
from deployment_kit import deployed
from proxy import tunnelling_proxy

from recsys_fed.errors import ConfigurationError
from recsys_fed.flower import ask, environment, free_port

HOST = "fed.example.org"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"well")

    def log_message(self, *_):
        """Nothing."""


@contextmanager
def server(federation):
    """A TLS server of the federation on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(federation.server_certificate, federation.server_key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as there:
        there.socket = context.wrap_socket(there.socket, server_side=True)
        threading.Thread(target=there.serve_forever, daemon=True).start()
        yield there.server_address[1]
        there.shutdown()


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    return deployed(tmp_path_factory.mktemp("federation"), host=HOST, port=free_port()).federation


@pytest.fixture(autouse=True)
def no_proxy_of_the_machine(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_the_name_and_the_certificate_are_those_of_the_server_behind_the_proxy(federation, monkeypatch):
    authority = federation.public / "authority.pem"
    with server(federation) as port, tunnelling_proxy() as (proxy, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://silo:se%20cret@127.0.0.1:{proxy}")
        found = ask(HOST, port, "/health", authority=authority)
        assert (found.status, found.text) == (200, "well"), found.reason
        assert heads[0].startswith(f"CONNECT {HOST}:{port}")
        assert "Proxy-Authorization: Basic c2lsbzpzZSBjcmV0" in heads[0]
        assert "certificate does not hold" in ask("other.example.org", port, "/health", authority=authority).reason
        asked = len(heads)
        assert ask("127.0.0.1", port, "/health", authority=authority).status == 200
        monkeypatch.setenv("NO_PROXY", "example.org")
        ask(HOST, port, "/health", authority=authority, timeout=0.5)
        assert len(heads) == asked, "neither this machine nor an exception is asked through it"


def test_flower_is_told_not_to_use_it_on_this_machine(monkeypatch, tmp_path):
    assert environment(tmp_path)["NO_PROXY"] == "127.0.0.1,localhost,::1"
    monkeypatch.setenv("NO_PROXY", "db.internal")
    assert environment(tmp_path)["NO_PROXY"] == "db.internal,127.0.0.1,localhost,::1"


@pytest.mark.parametrize("address", ["socks5://127.0.0.1:9", "http://127.0.0.1", "https://127.0.0.1:9"])
def test_an_address_that_is_none_is_said(federation, monkeypatch, address):
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY"):
        ask(HOST, 9, "/health", authority=federation.public / "authority.pem")
