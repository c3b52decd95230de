"""Peers that a running federation must refuse, and what becomes of them."""

from recsys_fed.deployment._keys import make_authority
from recsys_fed.deployment.federation import AUTHORITY, split_address
from recsys_fed.deployment.provisioning import init_silo
from recsys_fed.deployment.roster import admit, revoke, synchronise
from recsys_fed.flower import healthy


def refused_meanwhile(federation, folder) -> None:
    """A plain-text connection, another authority, a key that nobody admitted, and one that was revoked."""
    there = federation.there
    root, settings = there.federation.path, there.federation.settings()
    port = split_address(settings.address)[1]
    assert healthy("127.0.0.1", port, authority=None), "plain text must not be answered"
    make_authority(folder / "other.key", folder / "other.pem", name="another")
    assert "certificate" in healthy("127.0.0.1", port, authority=folder / "other.pem").lower()
    for name, revoked in (("stranger", False), ("former", True)):
        silo = folder / name
        data = {"source": "csv", "path": str(root.parent / "silo-0.csv"), "user": "customer", "item": "sku"}
        init_silo(silo, federation=there.federation.public, name=name, epsilon=8.0, data=data)
        if revoked:
            admit(there.federation, silo / f"{name}.pub")
            synchronise(there.federation, say=list)
            revoke(there.federation, name)
            synchronise(there.federation, say=list)
        answer = activated(silo, settings.address)
        assert answer == 401, f"{name}: {answer}"


def activated(silo, address) -> int:
    """The status with which Flower answers a SuperNode of this silo's key."""
    import httpx
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    key = load_ssh_private_key((silo / "keys" / "node.key").read_bytes(), None)
    client = FleetHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=(silo / "federation" / AUTHORITY).read_bytes(),
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
    )
    try:
        client.ActivateNode(
            ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=30)
        )
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        client.close()
    return 200
