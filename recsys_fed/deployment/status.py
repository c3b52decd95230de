"""What operators of a federation and of a silo want to see at a glance, and their figures for Prometheus.

Figures for Prometheus over HTTP on loopback, made anew from the operator's own files at each question.

They are for the operator's own monitoring: those of a silo tell its budget and what it was asked, nothing of a user.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from recsys_fed.deployment.federation import AUTHORITY, FederationFolder, split_address
from recsys_fed.deployment.keys import expiry
from recsys_fed.deployment.roster import admitted, nodes
from recsys_fed.deployment.serving import prepare_flower
from recsys_fed.deployment.training import RUN_CONFIG, progress_of
from recsys_fed.errors import DataNotFoundError, EngineError, RecsysFedError
from recsys_fed.flower import healthy
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.silo.messages import message_counts
from recsys_fed.silo.secret import SiloSecret, passphrase
from recsys_fed.silo.settings import SiloSettings
from recsys_fed.silo.state import StateFolder


def silo_status(settings: SiloSettings) -> dict[str, Any]:
    """The silo's own figures as JSON values; they are for its operator and are never sent.

    Raises:
        LedgerError: the ledger cannot be read.
        KeyFileError: the silo's secret cannot.
    """
    with closing(Ledger.open(settings.ledger)) as ledger:
        spent, limit = ledger.spending().epsilon, ledger.terms().guarantee.epsilon
        releases = ledger.releases()
    messages = message_counts(Path(settings.folder))
    return {
        "name": settings.name,
        "address": settings.address,
        "epsilon_spent": spent,
        "epsilon_limit": limit,
        "releases": releases,
        "model": _model(settings),
        "messages_answered": dict(sorted(messages.answered.items())),
        "messages_refused": dict(sorted(messages.refused.items())),
        "messages_failed": dict(sorted(messages.failed.items())),
        "last_message": messages.last,
    }


def _model(settings: SiloSettings) -> str:
    """Hash of the model in use; "" before the first training."""
    secret = SiloSecret.load(Path(settings.secret_key), passphrase=passphrase())
    try:
        return StateFolder(Path(settings.state), secret).current()
    except DataNotFoundError:
        return ""


_NEWEST = 10


def federation_status(folder: FederationFolder) -> dict[str, Any]:
    """Server, certificate, silos and the newest trainings, as JSON values."""
    settings = folder.settings()
    authority = None if settings.insecure else folder.public / AUTHORITY
    reason = healthy("127.0.0.1", split_address(settings.address)[1], authority=authority)
    status: dict[str, str] = {}
    if not reason and not settings.insecure:
        prepare_flower(folder, settings)
        status = {node.name: node.status for node in nodes(folder)}
    trainings = sorted(path for path in folder.trainings.glob("*") if (path / RUN_CONFIG).is_file())
    return {
        "name": settings.name,
        "address": settings.address,
        "server": f"does not answer: {reason}" if reason else "serves",
        "certificate_until": f"{expiry(folder.server_certificate):%Y-%m-%d}",
        "silos": [
            {"name": known.name, "status": status.get(known.name, "unknown"), "ledger_key": known.ledger_key}
            for known in admitted(folder)
        ],
        "trainings": [progress_of(path) for path in trainings[-_NEWEST:]],
    }


_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HOST, _PATH = "127.0.0.1", "/metrics"


@dataclass(frozen=True, kw_only=True)
class _Metric:
    """One figure under its name.

    Attributes:
        name: without the prefix. kind: "counter" or "gauge". help: one line.
        values: by labels, which are public names.
    """

    name: str
    kind: str
    help: str
    values: Sequence[tuple[Mapping[str, str], float]] = field(default_factory=tuple)


_Collect = Callable[[], Sequence[_Metric]]


def federation_metrics(folder: FederationFolder) -> list[_Metric]:
    """Trainings, rounds and refused messages of a federation, its silos, and until when its certificate holds."""
    found = [progress_of(path) for path in folder.trainings.glob("*") if (path / RUN_CONFIG).is_file()]
    complete = sum(bool(one["complete"]) for one in found)
    states = [({"state": "complete"}, complete), ({"state": "not complete"}, len(found) - complete)]
    metrics = [
        _Metric(name="trainings", kind="gauge", help="Trainings by state.", values=states),
        _single("rounds_total", "counter", "Rounds done.", sum(int(str(one["rounds"])) for one in found)),
        _single("refused_total", "counter", "Messages refused.", sum(int(str(one["refused"])) for one in found)),
        _single("silos_admitted", "gauge", "Silos of the roster.", len(admitted(folder))),
    ]
    if not folder.settings().insecure:
        ends = expiry(folder.server_certificate).timestamp()
        metrics.append(_single("certificate_expiry_seconds", "gauge", "Unix time of the certificate's end.", ends))
    return metrics


def silo_metrics(settings: SiloSettings) -> list[_Metric]:
    """Budget of a silo, and the messages of the server by what became of them."""
    status = silo_status(settings)
    messages = [
        ({"became": became, "kind": kind}, count)
        for became in ("answered", "refused", "failed")
        for kind, count in status[f"messages_{became}"].items()
    ]
    return [
        _single("epsilon_spent", "gauge", "Epsilon that the ledger has charged.", status["epsilon_spent"]),
        _single("epsilon_limit", "gauge", "Epsilon of the ledger's limit.", status["epsilon_limit"]),
        _single("releases_total", "counter", "Releases that were charged.", status["releases"]),
        _Metric(name="messages_total", kind="counter", help="Messages of the server.", values=messages),
    ]


def _exposition(metrics: Sequence[_Metric]) -> str:
    r"""The text format of Prometheus.

    >>> print(_exposition([_Metric(name="x", kind="gauge", help="A figure.", values=[({"of": 'a"b'}, 1.5)])]), end="")
    # HELP recsys_fed_x A figure.
    # TYPE recsys_fed_x gauge
    recsys_fed_x{of="a\"b"} 1.5
    """
    lines = []
    for metric in metrics:
        name = f"recsys_fed_{metric.name}"
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        for labels, value in metric.values:
            inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in sorted(labels.items()))
            lines.append(f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}")
    return "\n".join(lines) + "\n"


@contextmanager
def served_metrics(port: int, collect: _Collect) -> Iterator[int]:
    """Answer `GET /metrics` on loopback while the block runs; gives the port, a free one for 0.

    Raises:
        EngineError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer((_HOST, port), _handler(collect))
    except OSError as error:
        raise EngineError(f"Expected port {port} of {_HOST} to be free for metrics: {error}.") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(collect: _Collect) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0

        def do_GET(self) -> None:
            if self.path != _PATH:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            try:
                body = _exposition(collect()).encode()
            except RecsysFedError:
                # Its text may hold paths; `status` and `check` say what is wrong.
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", _CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing: a question for metrics is no event."""

    return Handler


def _single(name: str, kind: str, text: str, value: float) -> _Metric:
    return _Metric(name=name, kind=kind, help=text, values=[({}, value)])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
