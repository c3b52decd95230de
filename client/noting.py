"""What of a message a silo notes in its own log, and where: see `recsys_fed.silo.messages`."""

from pathlib import Path

from flwr.app import Context, Message

from client.opening import SILO
from client.training import training_of
from recsys_fed.errors import ProtocolError
from recsys_fed.logs import Field
from recsys_fed.silo.messages import MessageLog


def message_log(context: Context) -> MessageLog:
    """The log beside a deployed silo's silo.toml; a simulated silo keeps none."""
    if SILO not in context.node_config:
        return MessageLog(None)
    path = Path(str(context.node_config[SILO]))
    return MessageLog(path if path.is_dir() else path.parent)


def public_facts(message: Message, context: Context) -> dict[str, Field]:
    """The training and the round, where the server has said them as it should; nothing else that it wrote."""
    try:
        facts: dict[str, Field] = {"training": training_of(context)}
    except ProtocolError:
        return {}
    request = message.content.config_records.get("request") if message.has_content() else None
    number = request.get("round") if request is not None else None
    return facts | ({"round": number + 1} if type(number) is int else {})
