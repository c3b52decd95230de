"""Greetings are signed with the silo's ledger key, so that nobody greets under another silo's name or key.

The signature covers the run and the node that greets. Flower authenticates nodes, so a greeting fits no other node: a
silo that was admitted under one name can neither take another's nor keep its owner out.
"""

from dataclasses import asdict, replace

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.update import Greeting
from recsys_fed.signing import SigningKey, canonical, verify_signature

PURPOSE = "greeting"


def signed_greeting(greeting: Greeting, key: SigningKey, *, run: str, node: int) -> Greeting:
    """The greeting under `key`'s public half, signed for this run and this node."""
    own = replace(greeting, public_key=key.public_key)
    return replace(own, signature=key.sign(PURPOSE, _content(own, run=run, node=node)))


def check_greeting(greeting: Greeting, *, run: str, node: int) -> None:
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


def _content(greeting: Greeting, *, run: str, node: int) -> bytes:
    facts = asdict(greeting)
    del facts["signature"]
    return canonical(facts | {"run": run, "node": node})
