"""The gate in front of Flower's SuperLink."""

import asyncio
import json

import pytest

from recsys_fed.deployment.gated_superlink import SuperLinkGate
from recsys_fed.logs import EventLog

MOST = 1000


def answered(path, *, caller="10.0.0.9", body=b"", length=None, log=None):
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

    headers = [(b"content-length", str(length).encode())] if length is not None else []
    scope = {"type": "http", "path": path, "client": (caller, 5), "headers": headers}
    asyncio.run(SuperLinkGate(app, most_bytes=MOST, log=EventLog(log))(scope, receive, send))
    status = next((message["status"] for message in sent if "status" in message), 0)
    return status, sum(map(len, seen))


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/x", "/docs", "/", ""]
)
def test_only_the_operators_machine_reaches_the_rest(path, tmp_path):
    assert answered(path, log=tmp_path / "log")[0] == 403
    assert answered(path, caller="127.0.0.1")[0] == 200
    assert answered(path, caller="::1")[0] == 200
    # Loopback has many addresses: whoever forwards for others may use one of those.
    assert answered(path, caller="127.0.0.2")[0] == 403
    assert json.loads((tmp_path / "log").read_text())["event"] == "request refused"


@pytest.mark.parametrize(
    "path", ["/v1/fleet/../control/start-run", "/V1/FLEET/x", "/v1/fleetx", "//v1/fleet/x", "/health/x"]
)
def test_a_path_that_only_looks_like_the_fleets_is_none(path):
    # Flower routes by the whole path; one that starts like the fleet's but goes elsewhere has no route there.
    expected = 200 if path.startswith("/v1/fleet/") else 403
    assert answered(path)[0] == expected


def test_silos_reach_the_fleet_with_messages_of_a_bounded_size():
    assert answered("/v1/fleet/push", body=b"x" * MOST, length=MOST) == (200, MOST)
    assert answered("/v1/fleet/push", body=b"x" * (MOST + 1), length=MOST + 1) == (413, 0)
    status, seen = answered("/v1/fleet/push", body=b"x" * (5 * MOST), length=None)
    assert (status, seen <= MOST) == (413, True), "a body without a length is cut off"
    assert answered("/v1/fleet/push", body=b"x" * (5 * MOST), length=3)[1] <= MOST
    assert answered("/health")[0] == 200
