"""What operators of a federation and of a silo want to see at a glance, and their figures for Prometheus.

Figures for Prometheus over HTTP on loopback, made anew from the operator's own files at each question.

They are for the operator's own monitoring: those of a silo tell its budget and what it was asked, nothing of a user.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from recsys_fed.deployment._keys import expiry
from recsys_fed.deployment.federation import AUTHORITY, FederationFolder, split_address
from recsys_fed.deployment.roster import admitted_silos, heard_of, nodes
from recsys_fed.deployment.serving import prepare_flower
from recsys_fed.deployment.training import progress_of, trainings_of
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
# A silo's SuperNode asks for messages every 3 s, and the server notes it every 10 s.
_ONLINE_SECONDS = 60.0


def federation_status(folder: FederationFolder) -> dict[str, Any]:
    """Server, certificate, silos and the newest trainings, as JSON values."""
    settings = folder.settings()
    authority = None if settings.insecure else folder.public / AUTHORITY
    reason = healthy("127.0.0.1", split_address(settings.address)[1], authority=authority)
    status: dict[str, str] = {}
    if not reason and not settings.insecure:
        prepare_flower(folder, settings)
        status = {node.name: node.status for node in nodes(folder)}
    trainings = trainings_of(folder)
    return {
        "name": settings.name,
        "address": settings.address,
        "server": f"does not answer: {reason}" if reason else "serves",
        "certificate_until": f"{expiry(folder.server_certificate):%Y-%m-%d}",
        "silos": [
            {"name": known.name, "status": status.get(known.name, "unknown"), "ledger_key": known.ledger_key}
            for known in admitted_silos(folder)
        ],
        "trainings": [progress_of(path) for path in trainings[-_NEWEST:]],
    }


_HOST, _PATH = "127.0.0.1", "/metrics"


_Collect = Callable[[], Sequence[Metric]]


def federation_metrics(folder: FederationFolder) -> list[Metric]:
    """Trainings, rounds and refused messages of a federation, its silos, and until when its certificate holds."""
    found = [progress_of(path) for path in trainings_of(folder)]
    complete = sum(bool(one["complete"]) for one in found)
    trainings = GaugeMetricFamily("recsys_fed_trainings", "Trainings by state.", labels=("state",))
    trainings.add_metric(("complete",), complete)
    trainings.add_metric(("not complete",), len(found) - complete)
    rounds, refused = (sum(int(str(one[name])) for one in found) for name in ("rounds", "refused"))
    metrics = [
        trainings,
        CounterMetricFamily("recsys_fed_rounds", "Rounds done.", rounds),
        CounterMetricFamily("recsys_fed_refused", "Messages refused.", refused),
        GaugeMetricFamily("recsys_fed_silos_admitted", "Silos of the roster.", len(admitted_silos(folder))),
        *_heard_metrics(folder),
    ]
    if not folder.settings().insecure:
        ends, what = expiry(folder.server_certificate).timestamp(), "Unix time of the certificate's end."
        metrics.append(GaugeMetricFamily("recsys_fed_certificate_expiry_seconds", what, ends))
    return metrics


def _heard_metrics(folder: FederationFolder) -> list[Metric]:
    last = GaugeMetricFamily(
        "recsys_fed_silo_heard_timestamp_seconds", "When a silo was last heard of; 0: never.", labels=("silo",)
    )
    heard = heard_of(folder)
    for name, when in heard.items():
        last.add_metric((name,), when)
    online = sum(time.time() - when < _ONLINE_SECONDS for when in heard.values())
    what = f"Silos of the roster that were heard of in the last {_ONLINE_SECONDS:g} s."
    return [GaugeMetricFamily("recsys_fed_silos_online", what, online), last]


def silo_metrics(settings: SiloSettings) -> list[Metric]:
    """Budget of a silo, and the messages of the server by what became of them."""
    status = silo_status(settings)
    messages = CounterMetricFamily("recsys_fed_messages", "Messages of the server.", labels=("became", "kind"))
    for became in ("answered", "refused", "failed"):
        for kind, count in status[f"messages_{became}"].items():
            messages.add_metric((became, kind), count)
    return [
        GaugeMetricFamily(
            "recsys_fed_epsilon_spent", "Epsilon that the ledger has charged.", status["epsilon_spent"]
        ),
        GaugeMetricFamily("recsys_fed_epsilon_limit", "Epsilon of the ledger's limit.", status["epsilon_limit"]),
        CounterMetricFamily("recsys_fed_releases", "Releases that were charged.", status["releases"]),
        messages,
    ]


@dataclass(frozen=True, eq=False)
class _Collected(Collector):
    """Figures of one moment, as Prometheus' library asks for them."""

    metrics: Sequence[Metric]

    def collect(self) -> Sequence[Metric]:
        """All of them."""
        return self.metrics


def _exposition(metrics: Sequence[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    return generate_latest(registry)


@contextmanager
def serve_metrics(port: int, collect: _Collect) -> Iterator[int]:
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
                body = _exposition(collect())
            except RecsysFedError:
                # Its text may hold paths; `status` and `check` say what is wrong.
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Write nothing: a question for metrics is no event."""

    return Handler
