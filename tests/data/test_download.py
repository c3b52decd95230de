import hashlib
import io
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recsys_fed.data.locate import Archive, _fetch
from recsys_fed.errors import DataFormatError, DataNotFoundError

RATINGS = "1::661::5::978300760\n2::661::4::978298413\n"


def _zip(members):
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return body.getvalue()


BODY = _zip({"ml-1m/ratings.dat": RATINGS, "ml-1m/movies.dat": "661::James (1996)::Drama\n", "other": "x"})


@pytest.fixture
def serve(monkeypatch):
    """Serve bytes on the loopback interface, perhaps after a delay; gives the archive to fetch."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(body, *, delay=0.0, status=200, protocol=True):
        release = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                release.wait(delay)
                if protocol:
                    self.send_response(status)
                    self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Keep the test's output clean."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append((server, release))
        return Archive(
            name="ml-1m",
            url=f"http://127.0.0.1:{server.server_port}/ml-1m.zip",
            md5=hashlib.md5(body, usedforsecurity=False).hexdigest(),
            members=("ml-1m/ratings.dat", "ml-1m/movies.dat"),
            licence="Research use only.",
            connect_timeout=3.0,
            total_timeout=5.0,
        )

    yield start
    for server, release in servers:
        release.set()
        server.shutdown()
        server.server_close()


def test_a_download_is_verified_and_unpacked(serve, tmp_path):
    said = []
    folder = _fetch(serve(BODY), tmp_path / "cache", say=said.append)
    assert folder == tmp_path / "cache" / "ml-1m"
    assert sorted(path.name for path in folder.iterdir()) == ["movies.dat", "ratings.dat"]
    assert (folder / "ratings.dat").read_text() == RATINGS
    assert len(said) == 1
    assert "Research use only." in said[0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["ml-1m"]


def test_a_wrong_checksum_keeps_nothing(serve, tmp_path):
    archive = replace(serve(BODY), md5="0" * 32)
    with pytest.raises(DataFormatError, match=f"MD5 {'0' * 32}, got .*; nothing was kept"):
        _fetch(archive, tmp_path / "cache", say=lambda _: None)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("body", [b"no zip", _zip({"ml-1m/movies.dat": "x"})])
def test_an_archive_without_the_files_leaves_no_folder(serve, tmp_path, body):
    with pytest.raises(DataFormatError, match=r"ratings.dat"):
        _fetch(serve(body), tmp_path, say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_wrote_meanwhile_stays(serve, tmp_path):
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").write_text("theirs")
    folder = _fetch(serve(BODY), tmp_path, say=lambda _: None)
    assert (folder / "ratings.dat").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["ml-1m"]


def test_no_network_is_said_at_once(serve, tmp_path):
    archive = replace(serve(BODY), url="http://127.0.0.1:9/ml-1m.zip")
    with pytest.raises(DataNotFoundError, match=r"download from http://127.0.0.1:9/ml-1m.zip, got none"):
        _fetch(archive, tmp_path, say=lambda _: None)


def test_a_missing_file_is_not_found(serve, tmp_path):
    with pytest.raises(DataNotFoundError, match="404"):
        _fetch(serve(b"", status=404), tmp_path, say=lambda _: None)


def test_a_server_that_speaks_something_else_is_said(serve, tmp_path):
    with pytest.raises(DataNotFoundError, match="got none: hello"):
        _fetch(serve(b"hello there\r\n", protocol=False), tmp_path, say=lambda _: None)


def test_a_cache_that_cannot_be_written_is_said(serve, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataNotFoundError, match=r"folder to write to at .*file"):
        _fetch(serve(BODY), tmp_path / "file" / "cache", say=lambda _: None)


def test_a_silent_server_is_given_up(serve, tmp_path):
    archive = replace(serve(BODY, delay=20.0), connect_timeout=0.3)
    start = time.monotonic()
    with pytest.raises(DataNotFoundError, match="got none"):
        _fetch(archive, tmp_path, say=lambda _: None)
    # Given up, not waited for: the server would answer after 20 s.
    assert time.monotonic() - start < 15


def test_too_many_bytes_are_refused(serve, tmp_path):
    with pytest.raises(DataNotFoundError, match="more than 10 bytes"):
        _fetch(replace(serve(BODY), max_bytes=10), tmp_path, say=lambda _: None)
