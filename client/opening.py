"""Which silo a message is for: a simulated one by its partition, a deployed one by its own silo.toml."""

from pathlib import Path

from flwr.app import Context

from client.deployed import open_deployed_silo
from client.state import Silo
from client.state import open_silo as open_simulated_silo
from recsys_fed.errors import ConfigurationError

# Key of the SuperNode's own --node-config.
SILO = "silo"


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
