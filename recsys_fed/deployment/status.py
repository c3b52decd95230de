"""What the operator of a federation wants to see at a glance."""

from typing import Any

from recsys_fed.deployment.authority import expiry
from recsys_fed.deployment.federation import AUTHORITY, FederationFolder, split_address
from recsys_fed.deployment.roster import admitted, nodes
from recsys_fed.deployment.serving import prepare_flower
from recsys_fed.deployment.training import RUN_CONFIG, progress_of
from recsys_fed.flower.processes import healthy

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
