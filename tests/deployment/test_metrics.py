"""Figures for Prometheus: on loopback only, from the operator's files, and nothing of a user."""

import http.client
import json
import os
import re
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from deployment_kit import CONFIG, USER, deployed, train_in_process

from client.deployed import forget_silos
from recsys_fed.deployment.status import federation_metrics, serve_metrics, silo_metrics
from recsys_fed.errors import EngineError
from recsys_fed.ledger.ledger import Ledger
from recsys_fed.serving._service import _Telemetry
from recsys_fed.silo.settings import read_silo_settings

LINE = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')


def asked(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def figures(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(LINE.fullmatch(line) for line in lines), text
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    folder = tmp_path_factory.mktemp("federation")
    forget_silos()
    config = replace(CONFIG, secure_aggregation="off")
    made = deployed(folder, config=config, simulated=True)
    training = made.federation.trainings / "a-training"
    training.mkdir(parents=True)
    (training / "run.toml").write_text("")
    train_in_process(made, training, config=config)
    forget_silos()
    return made


def test_a_silos_figures_are_those_of_its_ledger_and_its_log(there):
    settings = read_silo_settings(there.silos[0])
    with serve_metrics(0, lambda: silo_metrics(settings)) as port:
        status, text = asked(port)
    found = figures(text)
    assert status == 200
    assert found["recsys_fed_epsilon_spent"] == Ledger.open(settings.ledger).spending().epsilon
    assert (found["recsys_fed_epsilon_limit"], found["recsys_fed_releases_total"]) == (20.0, CONFIG.rounds)
    assert found['recsys_fed_messages_total{became="answered",kind="train"}'] == CONFIG.rounds
    assert USER not in text
    assert str(there.silos[0]) not in text


def test_a_federations_figures_are_those_of_its_trainings(there):
    with serve_metrics(0, lambda: federation_metrics(there.federation)) as port:
        found = figures(asked(port)[1])
        assert asked(port, "/else")[0] == 404
        assert asked(port, method="POST")[0] == 501
    assert found['recsys_fed_trainings{state="complete"}'] == 1
    assert found["recsys_fed_rounds_total"] == CONFIG.rounds
    assert found["recsys_fed_silos_admitted"] == len(there.silos)
    assert found["recsys_fed_silos_online"] == 0
    assert found['recsys_fed_silo_heard_timestamp_seconds{silo="silo-0"}'] == 0


def test_who_was_heard_of_lately_is_online(there):
    federation, now = there.federation, time.time()
    federation.heard.mkdir(parents=True)
    try:
        for file, ago in zip(sorted(federation.admitted.iterdir()), (5, 500, 5_000), strict=True):
            (federation.heard / file.name).touch()
            os.utime(federation.heard / file.name, (now - ago, now - ago))
        with serve_metrics(0, lambda: federation_metrics(federation)) as port:
            found = figures(asked(port)[1])
    finally:
        shutil.rmtree(federation.heard)
    assert found["recsys_fed_silos_online"] == 1
    heard = [found[f'recsys_fed_silo_heard_timestamp_seconds{{silo="silo-{index}"}}'] for index in range(3)]
    assert np.allclose([now - when for when in heard], [5, 500, 5_000], atol=1)


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(there):
    settings = read_silo_settings(there.silos[0])
    answered = [serve_metrics(0, lambda: federation_metrics(there.federation))]
    answered.append(serve_metrics(0, lambda: silo_metrics(settings)))
    text = ""
    for server in answered:
        with server as port:
            text += asked(port)[1]
    telemetry = _Telemetry()
    telemetry.request("/v1/feedback", 200, seconds=0.01, now=0.0)
    there_are = set(re.findall(r"^(recsys_fed_\w+)", text + telemetry.text(), re.MULTILINE))
    folder = Path(__file__).resolve().parents[2] / "docs" / "deployment"
    rules = yaml.safe_load((folder / "alerts.yaml").read_text())["groups"][0]["rules"]
    panels = json.loads((folder / "dashboard.json").read_text())["panels"]
    expressions = [rule["expr"] for rule in rules] + [t["expr"] for panel in panels for t in panel["targets"]]
    for expression in expressions:
        used = set(re.findall(r"recsys_fed_\w+", expression))
        assert used <= there_are, expression
        assert used or "up{" in expression
    assert all(rule["annotations"]["summary"] for rule in rules)
    assert len({panel["id"] for panel in panels}) == len(panels)
    # What the page lists is what there is.
    page = (folder.parent / "deployment.md").read_text()
    listed = set(re.findall(r"`(recsys_fed_\w+)", page[page.index("## Monitoring") :]))
    assert listed == set(re.findall(r"^(recsys_fed_\w+)", text, re.MULTILINE))


def test_only_loopback_answers_and_a_taken_port_is_said(there):
    with serve_metrics(0, list) as port:
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            with pytest.raises(OSError), socket.create_connection((own, port), timeout=2):
                pass
        with pytest.raises(EngineError, match=f"port {port}"), serve_metrics(port, list):
            pass


def test_trouble_is_an_answer_without_its_text(there):
    settings = replace(read_silo_settings(there.silos[0]), ledger="/nowhere/ledger.sqlite")
    with serve_metrics(0, lambda: silo_metrics(settings)) as port:
        status, text = asked(port)
    assert status == 503
    assert "nowhere" not in text
