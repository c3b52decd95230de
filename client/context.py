"""What Flower's context says of a message: its training, the silo that it is for, and what of it that silo notes.

A simulated silo is named by its partition, a deployed one by its own silo.toml.
"""

import re
from pathlib import Path

from flwr.app import Context, Message

from client.deployed import open_deployed_silo
from client.state import Silo, open_simulated_silo
from recsys_fed.errors import ConfigurationError, ProtocolError
from recsys_fed.logs import Field
from recsys_fed.silo.messages import MessageLog

# Names as `federation train` makes them, and Flower's numbers.
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
# Key of the SuperNode's own --node-config.
SILO = "silo"


def training_of(context: Context) -> str:
    """The training's name, which outlives a restart of the server, else Flower's number of the run.

    Raises:
        ProtocolError: the server sent something else as a name.
    """
    name = str(context.run_config.get("training", "")) or str(context.run_id)
    if not _NAME.fullmatch(name):
        raise ProtocolError(f"Expected the name of a training in letters, digits and hyphens, got {name!r:.80}.")
    return name


def open_silo(context: Context) -> Silo:
    """Open the silo that a context belongs to; see the two ways of opening for what they refuse.

    Raises:
        ConfigurationError: the node is neither simulated nor has a silo.toml, or claims to be both.
    """
    simulated, deployed = "partition-id" in context.node_config, SILO in context.node_config
    if simulated == deployed:
        raise ConfigurationError(
            f"Expected a node with a partition-id (simulated) or a {SILO} (deployed), got neither or both. "
            "Start it with `recsys-fed silo serve`."
        )
    return open_deployed_silo(Path(str(context.node_config[SILO]))) if deployed else open_simulated_silo(context)


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
