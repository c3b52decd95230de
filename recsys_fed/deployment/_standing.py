"""What the federation's server says of a silo: whether it answers, its clock, whether it takes its messages."""

import json
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

from recsys_fed.deployment._keys import plain_node_key, signed_headers
from recsys_fed.deployment.federation import split_address
from recsys_fed.flower import ask
from recsys_fed.silo.settings import SiloSettings

# The gate answers whether the key is admitted; Flower has nothing there.
_PATH = "/v1/fleet/standing"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Why the server would not take this silo's messages now, and what to do, "" if it would; how many seconds the
    server's clock is ahead.
    """

    reason: str = ""
    clock_ahead: float = 0.0


def standing_of(settings: SiloSettings, *, passphrase: str | None) -> Standing:
    """Ask the server, under the silo's node key.

    Raises:
        DataNotFoundError, KeyFileError: the node key cannot be read.
    """
    host, port = split_address(settings.address)
    authority = Path(settings.root_certificate) if settings.root_certificate else None
    headers = signed_headers(plain_node_key(Path(settings.node_key), passphrase=passphrase)) if authority else {}
    answer = ask(host, port, _PATH if authority else "/health", authority=authority, headers=headers)
    if answer.reason:
        return Standing(reason=f"Expected the federation at {settings.address} to answer: {answer.reason}.")
    # The header has whole seconds.
    ahead = parsedate_to_datetime(answer.date).timestamp() + 0.5 - time.time() if answer.date else 0.0
    if answer.status != HTTPStatus.UNAUTHORIZED:
        return Standing(clock_ahead=ahead)
    reason = (
        f"The federation at {settings.address} does not take this silo's messages: {_detail(answer.text)} "
        f"Hand {settings.name}.pub to its operator, who admits it (`recsys-fed federation admit`). A silo that was "
        "revoked needs new keys."
    )
    return Standing(reason=reason, clock_ahead=ahead)


def _detail(text: str) -> str:
    """The gate's reason."""
    try:
        return str(json.loads(text)["detail"])[:200]
    except (ValueError, KeyError, TypeError):
        return "it gave no reason."
