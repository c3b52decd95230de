"""Who is admitted to a federation, and greetings that nobody else can send.

The roster: names and ledger keys of the admitted silos. The server checks greetings against its own copy, and each
silo that takes part in secure aggregation against the copy that its own operator has taken in.

Greetings are signed with the silo's ledger key, so that nobody greets under another silo's name or key. The signature
covers the run and the node that greets. Flower authenticates nodes, so a greeting fits no other node: a silo that was
admitted under one name can neither take another's nor keep its owner out.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from recsys_fed.errors import ConfigurationError, DataFormatError, DataNotFoundError, ProtocolError
from recsys_fed.files import write_whole
from recsys_fed.signing import SigningKey, canonical, parse_public_key, verify_signature

if TYPE_CHECKING:
    from recsys_fed.federation.messages import Greeting

PURPOSE = "greeting"


def read_roster(path: Path) -> dict[str, str]:
    """Name -> ledger key.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is no roster.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Cannot find the roster of admitted silos at {path}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): parse_public_key(str(key)) for name, key in found.items()}
    except (ValueError, AttributeError, ConfigurationError) as error:
        raise DataFormatError(f"Expected names and ledger keys of silos in {path}: {error}") from error


def write_roster(path: Path, roster: Mapping[str, str]) -> None:
    """Write name -> ledger key; readers see the old file or the whole new one."""
    write_whole(path, json.dumps(dict(roster), indent=2, sort_keys=True) + "\n")


def sign_greeting(greeting: "Greeting", key: SigningKey, *, run: str, node: int) -> "Greeting":
    """The greeting under `key`'s public half, signed for this run and this node."""
    own = replace(greeting, public_key=key.public_key)
    return replace(own, signature=key.sign(PURPOSE, _content(own, run=run, node=node)))


def check_greeting(greeting: "Greeting", *, run: str, node: int) -> None:
    """Refuse a greeting that the key in it has not signed for this run and this node.

    Whether the key is the silo's is another question, which the roster answers.

    Raises:
        ProtocolError: the signature does not hold.
    """
    if not verify_signature(greeting.public_key, PURPOSE, _content(greeting, run=run, node=node), greeting.signature):
        raise ProtocolError(
            f"Expected the greeting of {greeting.silo!r:.80} to be signed by its ledger key for this run and node, "
            "it is not. Install the same version everywhere."
        )


def _content(greeting: "Greeting", *, run: str, node: int) -> bytes:
    facts = asdict(greeting)
    del facts["signature"]
    return canonical(facts | {"run": run, "node": node})
