"""The plain Flower commands that this project runs: what to type to do the same by hand.

They run in the environment of `recsys_fed.flower.tools`, with FLWR_HOME in the operator's own folder.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from recsys_fed.deployment.federation import AUTHORITY, FederationFolder, FederationSettings, split_address
from recsys_fed.flower.tools import tool
from recsys_fed.silo.settings import SiloSettings

CONNECTION = "federation"


def superlink_command(folder: FederationFolder, settings: FederationSettings) -> list[str]:
    """flower-superlink of a federation."""
    command = [tool("flower-superlink"), "--host", settings.listen, "--port", str(split_address(settings.address)[1])]
    command += ["--database", str(folder.flower_home / "superlink.sqlite")]
    command += ["--disable-runtime-dependency-installation"]
    if settings.insecure:
        return [*command, "--insecure"]
    command += ["--ssl-certfile", str(folder.server_certificate), "--ssl-keyfile", str(folder.server_key)]
    return [*command, "--ssl-ca-certfile", str(folder.public / AUTHORITY), "--enable-supernode-auth"]


def supernode_command(settings: SiloSettings, *, node_key: str, port: int) -> list[str]:
    """flower-supernode of a silo; `node_key` is the key's path as Flower is to read it."""
    silo = Path(settings.folder) / "silo.toml"
    command = [tool("flower-supernode"), "--superlink", settings.address]
    command += ["--node-config", f"silo={_quoted(str(silo))}", "--host", "127.0.0.1", "--port", str(port)]
    if not settings.root_certificate:
        return [*command, "--insecure"]
    return [*command, "--root-certificates", settings.root_certificate, "--auth-supernode-private-key", node_key]


def run_command(app: Path, run_config: Path) -> list[str]:
    """flwr run of a training."""
    return [tool("flwr"), "run", str(app), CONNECTION, "--run-config", str(run_config), "--stream"]


def nodes_command() -> list[str]:
    """flwr supernode list."""
    return [tool("flwr"), "supernode", "list", CONNECTION, "--format", "json"]


def register_command(public_key: Path, *, name: str) -> list[str]:
    """flwr supernode register."""
    return [tool("flwr"), "supernode", "register", str(public_key), CONNECTION, "--name", name, "--format", "json"]


def unregister_command(node: str) -> list[str]:
    """flwr supernode unregister."""
    return [tool("flwr"), "supernode", "unregister", node, CONNECTION, "--format", "json"]


def flower_config(folder: FederationFolder, settings: FederationSettings) -> str:
    """Flower's own config.toml for the operator's commands: they go to loopback, whatever silos use."""
    host = f"[{settings.listen}]" if ":" in settings.listen else "127.0.0.1"
    lines = ["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]"]
    lines += [f'address = "{host}:{split_address(settings.address)[1]}"']
    lines += [
        "insecure = true" if settings.insecure else f"root-certificates = {_quoted(str(folder.public / AUTHORITY))}"
    ]
    return "\n".join(lines) + "\n"


def printed(command: Sequence[str], home: Path) -> str:
    """The command as a shell takes it."""
    plain = shlex.join([Path(command[0]).name, *command[1:]])
    return f"FLWR_HOME={shlex.quote(str(home))} FLWR_TELEMETRY_ENABLED=0 {plain}"


def _quoted(text: str) -> str:
    """A TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
