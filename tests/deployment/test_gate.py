"""The gate in front of Flower's SuperLink and SuperNode, and the parts of Flower that it stands on."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from recsys_fed.deployment import gated
from recsys_fed.deployment._keys import Admission, make_node_key, plain_node_key, signed_headers
from recsys_fed.deployment.gated import _LocalGate, _SuperLinkGate
from recsys_fed.logs import EventLog
from recsys_fed.signing import SigningKey

MOST = 1000


@pytest.fixture(autouse=True)
def account(monkeypatch):
    """Callers on loopback with an even port are processes of the account that serves."""
    monkeypatch.setattr(gated, "is_own_account", lambda caller, _: caller[0] == "127.0.0.1" and caller[1] % 2 == 0)


class Silo:
    """A node key and the file that admits it."""

    def __init__(self, folder, name="north"):
        node_key = make_node_key(folder / f"{name}.key")
        self.key = plain_node_key(folder / f"{name}.key")
        admission = Admission(name=name, node_key=node_key, ledger_key=SigningKey.generate().public_key)
        self.line = admission.line()

    def headers(self, *, ago=0.0, spoilt=False):
        """As Flower's own client signs them, which `signed_headers` must equal in form."""
        from flwr.supernode.node_auth_http_interceptor import sign_message

        headers = signed_headers(self.key)
        moment = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()
        signature = sign_message(load_ssh_private_key(self.key, None), moment.encode())
        if spoilt:
            signature = sign_message(load_ssh_private_key(self.key, None), b"another moment")
        return headers | {"flwr-timestamp": moment, "flwr-signature": base64.b64encode(signature).decode()}


@pytest.fixture
def admitted(tmp_path):
    """A folder of admitted silos, and one that is."""
    silo, folder = Silo(tmp_path), tmp_path / "admitted"
    folder.mkdir()
    (folder / "north.pub").write_text(silo.line)
    return folder, silo


def asked(gate, path, *, caller=("10.0.0.9", 4), body=b"", length=None, headers=()):
    """The status of the answer, and how much of the body the application behind the gate has seen."""
    seen, sent, parts = [], [], [body[i : i + 100] for i in range(0, len(body), 100)] or [b""]

    async def app(_scope, receive, send):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            seen.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    encoded = [(name.encode(), value.encode()) for name, value in dict(headers).items()]
    encoded += [(b"content-length", str(length).encode())] if length is not None else []
    scope = {"type": "http", "path": path, "client": caller, "server": ("127.0.0.1", 1), "headers": encoded}
    asyncio.run(gate(app)(scope, receive, send))
    status = next((message["status"] for message in sent if "status" in message), 0)
    return status, sum(map(len, seen))


def superlink(folder, log=None, public=None):
    return lambda app: _SuperLinkGate(app, most_bytes=MOST, log=EventLog(log), admitted=folder, public=public)


OWN, OTHER, REMOTE = ("127.0.0.1", 2), ("127.0.0.1", 3), ("10.0.0.9", 4)


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"])
def test_only_the_account_that_serves_reaches_what_starts_runs_and_hands_out_messages(path, admitted, tmp_path):
    gate = superlink(admitted[0], tmp_path / "log")
    assert asked(gate, path, caller=OWN)[0] == 200
    assert asked(gate, path, caller=OTHER)[0] == 403
    assert asked(gate, path, caller=REMOTE)[0] == 403
    assert asked(gate, path, caller=REMOTE, headers=admitted[1].headers())[0] == 403, "a silo is no operator"
    assert json.loads((tmp_path / "log").read_text().splitlines()[0])["event"] == "request refused"


def test_it_is_noted_when_an_admitted_silo_was_heard_of_and_nobody_else(admitted):
    folder, silo = admitted
    heard, gate = folder.parent / "flower" / "heard", superlink(folder)
    for headers in ({}, silo.headers(spoilt=True), silo.headers(ago=3600)):
        assert asked(gate, "/v1/fleet/pull", caller=REMOTE, headers=headers)[0] == 401
    assert not heard.exists()
    assert asked(gate, "/v1/fleet/pull", caller=REMOTE, headers=silo.headers())[0] == 200
    assert [file.name for file in heard.iterdir()] == ["north.pub"]


@pytest.mark.parametrize(
    "path", ["/docs", "/openapi.json", "/", "", "/v1/fleetx", "//v1/fleet/x", "/V1/FLEET/x", "/health/x"]
)
def test_there_is_nothing_else_for_anybody(path, admitted):
    assert asked(superlink(admitted[0]), path, caller=OWN)[0] == 403
    assert asked(lambda app: _LocalGate(app, most_bytes=MOST), path, caller=OWN)[0] == 403


def test_a_supernode_answers_its_own_account_only():
    def gate(app):
        return _LocalGate(app, most_bytes=MOST)

    for path in ("/v1/runtime/acquire-task", "/v1/runtime/pull-messages", "/health"):
        assert asked(gate, path, caller=OWN)[0] == 200
        assert asked(gate, path, caller=OTHER)[0] == 403
    assert asked(gate, "/v1/fleet/pull-messages", caller=OWN)[0] == 403


def test_a_body_is_read_for_admitted_keys_only(admitted, tmp_path):
    folder, silo = admitted
    gate, path, body = superlink(folder), "/v1/fleet/push-object", b"x" * MOST
    assert asked(gate, path, body=body, length=MOST, headers=silo.headers()) == (200, MOST)
    stranger = Silo(tmp_path, "stranger")
    for headers in (
        {}, stranger.headers(), silo.headers(spoilt=True), silo.headers(ago=3600), silo.headers(ago=-3600),
        silo.headers() | {"flwr-public-key": "no base64"}, silo.headers() | {"flwr-signature": ""},
        stranger.headers() | {"flwr-public-key": silo.headers()["flwr-public-key"]},
    ):  # fmt: skip
        assert asked(gate, path, body=body, length=MOST, headers=headers) == (401, 0)
        assert asked(gate, path, caller=OTHER, body=body, headers=headers) == (401, 0)


def test_a_silo_that_is_revoked_is_refused_at_once(admitted):
    folder, silo = admitted
    app = None

    def gate(application):
        nonlocal app
        app = app or _SuperLinkGate(application, most_bytes=MOST, log=EventLog(None), admitted=folder, public=None)
        return app

    assert asked(gate, "/v1/fleet/x", headers=silo.headers())[0] == 200
    (folder / "north.pub").unlink()
    assert asked(gate, "/v1/fleet/x", headers=silo.headers())[0] == 401


def test_admitted_silos_fetch_the_notice_and_the_catalogue_and_nothing_else(admitted, tmp_path):
    folder, silo = admitted
    public = tmp_path / "public"
    public.mkdir()
    (public / "notice.json").write_bytes(b"signed")
    (public / "catalogue.parquet").write_bytes(b"items")
    (public / "terms.toml").write_bytes(b"terms")
    application = superlink(folder, public=public)(None)
    for path, content in (("/v1/fleet/notice", b"signed"), ("/v1/fleet/catalogue", b"items")):
        assert asked(lambda _: application, path, caller=REMOTE)[0] == 401
        sent = []
        headers = [(name.lower().encode(), value.encode()) for name, value in silo.headers().items()]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "client": REMOTE, "server": OWN}
        asyncio.run(application(scope, nothing_more, collecting(sent)))
        assert sent[0]["status"] == 200
        assert b"".join(message.get("body", b"") for message in sent) == content
    # Whatever else is asked for goes to Flower.
    assert asked(superlink(folder, public=public), "/v1/fleet/../terms.toml", headers=silo.headers()) == (200, 0)


async def nothing_more():
    return {"type": "http.request", "body": b"", "more_body": False}


def collecting(sent):
    async def send(message):
        sent.append(message)

    return send


def test_messages_have_a_bounded_size(admitted):
    folder, silo = admitted
    gate, path = superlink(folder), "/v1/fleet/push"
    assert asked(gate, path, body=b"x" * (MOST + 1), length=MOST + 1, headers=silo.headers()) == (413, 0)
    status, seen = asked(gate, path, body=b"x" * (5 * MOST), headers=silo.headers())
    assert (status, seen <= MOST) == (413, True), "a body without a length is cut off"
    assert asked(gate, path, body=b"x" * (5 * MOST), length=3, headers=silo.headers())[1] <= MOST
    assert asked(gate, "/health") == (200, 0)


def test_a_federation_without_authentication_is_for_its_own_account():
    gate = superlink(None)
    assert asked(gate, "/v1/fleet/x", caller=OWN)[0] == 200
    assert asked(gate, "/v1/fleet/x", caller=OTHER)[0] == 403


def test_refusals_do_not_grow_the_log(admitted, tmp_path):
    gate = _SuperLinkGate(None, most_bytes=MOST, log=EventLog(tmp_path / "log"), admitted=admitted[0], public=None)
    for _ in range(200):
        assert asked(lambda _: gate, "/v1/fleet/x")[0] == 401
        assert asked(lambda _: gate, "/v1/control/x")[0] == 403
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["refused"] for line in lines] == [1, 1], "one line a minute for each reason"


def test_headers_are_as_flowers_own_supernode_signs_them(tmp_path):
    import httpx
    from flwr.supercore.protobuf.client import ProtobufRequestContext
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    silo = Silo(tmp_path)
    key = load_ssh_private_key(silo.key, None)
    request = httpx.Request("POST", "http://x/v1/fleet/pull-messages")
    context = ProtobufRequestContext.__new__(ProtobufRequestContext)
    object.__setattr__(context, "request", request)
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: None)
    own = signed_headers(silo.key)
    assert {name for name in request.headers if name.startswith("flwr-")} == own.keys()
    assert request.headers["flwr-public-key"] == own["flwr-public-key"]


def test_a_program_has_ten_minutes_to_start_and_a_minute_between_signs_of_life(monkeypatch, tmp_path):
    from flwr.supercore.corestate import in_memory_corestate, sql_corestate

    for module in (in_memory_corestate, sql_corestate):
        for name in ("HEARTBEAT_DEFAULT_INTERVAL", "HEARTBEAT_PATIENCE"):
            monkeypatch.setattr(module, name, getattr(module, name))
    gated._wait_longer_for_programs()
    state, run = link_state(tmp_path)
    task = state.get_run_info(run_ids=[run])[0].primary_task_id
    assert state.claim_task(task)
    assert 500 < left(state, task) <= 600
    assert state.activate_task(task)
    assert 50 < left(state, task) <= 60
    assert state.acknowledge_task_heartbeat(task)
    assert 50 < left(state, task) <= 60


def test_a_supernode_asks_soon_again_after_a_message_and_seldom_after_a_minute_of_silence(monkeypatch):
    from flwr.supernode import start_client_internal

    now, slept, messages = [1000.0], [], [None, 7, None, None]
    for name in ("_pull_and_store_message", "time"):
        monkeypatch.setattr(start_client_internal, name, getattr(start_client_internal, name))
    monkeypatch.setattr(start_client_internal, "_pull_and_store_message", lambda **_: messages.pop(0))
    monkeypatch.setattr(gated.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(gated.time, "sleep", slept.append)
    gated._ask_soon_in_a_training(0.5)
    for later in (0, 0, 59, 2):
        now[0] += later
        start_client_internal._pull_and_store_message(state=None)
        start_client_internal.time.sleep(3)
    assert slept == [3, 0.5, 0.5, 3]


def test_runs_of_an_earlier_superlink_are_stopped_before_anything_is_served(tmp_path):
    from types import SimpleNamespace

    state, run = link_state(tmp_path)
    factory = SimpleNamespace(state=lambda: state)
    assert state.get_run_info(run_ids=[run])[0].status.status == "pending"
    gated._stop_unfinished_runs(SimpleNamespace(state=SimpleNamespace(linkstate_factory=factory)))
    status = state.get_run_info(run_ids=[run])[0].status
    assert (status.status, status.sub_status) == ("finished", "stopped")


@pytest.mark.parametrize("gate_first", [True, False])
def test_no_port_is_opened_while_no_gate_stands(gate_first):
    """A Flower that would not serve by uvicorn, or hand it the application otherwise, serves nothing."""
    code = f"""
import asyncio, socket, uvicorn
from recsys_fed.deployment.gated import _LocalGate, _put_gate
_put_gate(lambda app: _LocalGate(app, most_bytes=1))
async def app(scope, receive, send): pass
if {gate_first}:
    config = uvicorn.Config(app)
    config.load()
    assert isinstance(config.loaded_app, _LocalGate)
socket.socket(socket.AF_UNIX).close()
socket.socket().bind(("127.0.0.1", 0))
print("it is open")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False, env=os.environ
    )
    assert ("it is open" in done.stdout) is gate_first, done.stderr
    assert ("No gate stands" in done.stderr) is not gate_first


def link_state(folder):
    """Flower's own state of a SuperLink, with a run that waits."""
    from flwr.common.constant import NOOP_FLWR_AID
    from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
    from flwr.superlink.config_loader import get_federation_manager, get_objectstore_linkstate_factories

    _, factory = get_objectstore_linkstate_factories(str(folder / "superlink.sqlite"), get_federation_manager())
    state = factory.state()
    run = state.create_run("a/b", "1", "c" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP)
    return state, run


def left(state, task):
    """Seconds until Flower gives the task up."""
    from flwr.supercore.corestate.sql_corestate import TaskModel
    from flwr.supercore.utils import uint64_to_int64
    from sqlalchemy import select

    with state.session() as session:
        until = session.scalar(select(TaskModel.active_until).where(TaskModel.task_id == uint64_to_int64(task)))
    return (until - datetime.now(UTC)).total_seconds()
