"""The folder of a federation's operator: federation.toml, keys, admitted silos, and what is handed to silos.

federation.toml      name, address, terms of training
keys/                authority.key (may be kept offline), federation.key, server.key, server.pem; changes.json:
                     the federation's keys before this one
public/              what silos get: terms.toml, authority.pem, catalogue.parquet, roster.json, notice.json
admitted/NAME.pub    one line a silo, see `_keys`; revoked/ has those that were taken back, replaced/ earlier keys
trainings/ID/        checkpoint, model, events and certificates of each training
flower/              Flower's own state (FLWR_HOME)

The plain Flower commands that this project runs: what to type to do the same by hand.

They run in the environment of `recsys_fed.flower`, with FLWR_HOME in the operator's own folder.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys_fed import checks
from recsys_fed.config import FederationConfig, check_run_keys, flat, parse
from recsys_fed.errors import ConfigurationError
from recsys_fed.flower import tool
from recsys_fed.settings_file import Value, check_tables, flatten, parse_table, parse_tables, read_tables, to_toml

if TYPE_CHECKING:
    from recsys_fed.silo.settings import SiloSettings

FILE, TERMS = "federation.toml", "terms.toml"
AUTHORITY, CATALOGUE, ROSTER = "authority.pem", "catalogue.parquet", "roster.json"
NOTICE, FEDERATION_KEY = "notice.json", "federation.pub"
_DEFAULT_PORT = 9092
# Settings of the gate in a process' environment.
MOST_BYTES, LOG, ADMITTED = "RECSYS_FED_MOST_MESSAGE_BYTES", "RECSYS_FED_SERVER_LOG", "RECSYS_FED_ADMITTED"
HANDED_OUT, PAUSE = "RECSYS_FED_PUBLIC", "RECSYS_FED_PAUSE_SECONDS"
# Where the gate hands out files of the public folder to admitted silos.
NOTICE_PATH, CATALOGUE_PATH = "/v1/fleet/notice", "/v1/fleet/catalogue"
# A path that nobody may ask for, and that Flower answers: a refusal shows that the gate is in front of it.
PROBE = "/docs"
# Terms that federations of earlier versions do not have.
_MOST_EARLIER = "most-earlier-trainings"
_LATER = (_MOST_EARLIER, "user-weights", "metric-groups")
# How many earlier trainings the terms of a new federation allow one to build on, if nobody says otherwise.
BUILD_ON = 1_000
# Keys of a run that silos agree to; the others are the server's own business.
_AGREED = (
    "trainer", "epsilon", "delta", "rounds", "embedding-dim", "noise", "metrics-epsilon", "silos",
    "max-silos-per-user", "declared-users", "declared-interactions", "secure-aggregation",
    "secure-aggregation-threshold",
    "secure-aggregation-colluders", "item-features", "feature-kinds", "trainer-settings",
    "target", "order", "recency", *_LATER,
)  # fmt: skip
_ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(?P<port>\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """All of federation.toml.

    Attributes:
        name: public. address: HOST:PORT that silos connect to. listen: interface to bind.
        insecure: without TLS and node authentication; loopback only.
        most_message_megabytes: larger messages of silos are refused unread.
        terms_version, catalogue_version: count the changes of terms and catalogue, from 1; see `notice`.
        training: the terms; its epsilon is the most that a training may ask for.
    """

    name: str = "federation"
    address: str = f"127.0.0.1:{_DEFAULT_PORT}"
    listen: str = "127.0.0.1"
    insecure: bool = False
    most_message_megabytes: int = 256
    terms_version: int = 1
    catalogue_version: int = 1
    training: FederationConfig = field(default_factory=lambda: FederationConfig(silos=3))

    def __post_init__(self) -> None:
        split_address(self.address)
        checks.at_least(1, most_message_megabytes=self.most_message_megabytes, silos=self.training.silos)
        checks.at_least(1, terms_version=self.terms_version, catalogue_version=self.catalogue_version)
        if self.insecure and self.listen not in ("127.0.0.1", "::1"):
            raise ConfigurationError(
                f"Expected an insecure federation on loopback only, got listen = {self.listen!r}. "
                "Leave insecure out: `federation init` makes the certificates."
            )


@dataclass(frozen=True)
class FederationFolder:
    """Paths in the folder, all absolute: Flower takes no others."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.expanduser().resolve())

    @property
    def settings_file(self) -> Path:
        """federation.toml."""
        return self.path / FILE

    @property
    def public(self) -> Path:
        """What silos get."""
        return self.path / "public"

    @property
    def authority_key(self) -> Path:
        """Private key of the authority."""
        return self.path / "keys" / "authority.key"

    @property
    def federation_key(self) -> Path:
        """Private key that signs notices."""
        return self.path / "keys" / "federation.key"

    @property
    def key_changes(self) -> Path:
        """Each change of that key, oldest first."""
        return self.path / "keys" / "changes.json"

    @property
    def server_key(self) -> Path:
        """Private key of the server."""
        return self.path / "keys" / "server.key"

    @property
    def server_certificate(self) -> Path:
        """Certificate of the server."""
        return self.path / "keys" / "server.pem"

    @property
    def admitted(self) -> Path:
        """One file a silo."""
        return self.path / "admitted"

    @property
    def revoked(self) -> Path:
        """Files of silos that were taken back."""
        return self.path / "revoked"

    @property
    def replaced(self) -> Path:
        """Files of admitted silos with the keys that they had before."""
        return self.path / "replaced"

    @property
    def trainings(self) -> Path:
        """One folder a training."""
        return self.path / "trainings"

    @property
    def flower_home(self) -> Path:
        """Flower's own state."""
        return self.path / "flower"

    @property
    def heard(self) -> Path:
        """One empty file a silo, named as in `admitted`; its time of change is when the server last heard of it."""
        return self.flower_home / "heard"

    @property
    def log(self) -> Path:
        """Structured log of the server."""
        return self.path / "log.jsonl"

    def settings(self) -> FederationSettings:
        """Read federation.toml; raises DataNotFoundError, DataFormatError, ConfigurationError."""
        return read_federation(self.settings_file)


def read_federation(path: Path) -> FederationSettings:
    """Read federation.toml, or the terms.toml that silos get.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is not TOML.
        ConfigurationError: a key that nothing reads, or a value that is not allowed.
    """
    return _read(read_tables(path, what="a federation's settings"), place=str(path))


def read_federation_text(text: str, *, place: str) -> FederationSettings:
    """The same from the text of such a file; raises DataFormatError, ConfigurationError."""
    return _read(parse_tables(text, place=place), place=place)


def _read(tables: Mapping[str, Any], *, place: str) -> FederationSettings:
    check_tables(tables, ("federation", "training"), place=place)
    training = flatten(tables.get("training", {}))
    check_run_keys(training, place=f"[training] in {place}")
    terms = parse(FederationConfig, {"silos": 3, **training})
    own = tables.get("federation", {})
    return parse_table(FederationSettings, own, place=f"[federation] in {place}", training=terms)


def federation_toml(settings: FederationSettings) -> str:
    """The text of federation.toml."""
    own: dict[str, Value] = {
        "name": settings.name,
        "address": settings.address,
        "listen": settings.listen,
        "insecure": settings.insecure,
        "most-message-megabytes": settings.most_message_megabytes,
        "terms-version": settings.terms_version,
        "catalogue-version": settings.catalogue_version,
    }
    terms = agreed_keys(settings.training) | {"seed": settings.training.seed}
    return f"[federation]\n{to_toml(own)}\n[training]\n{to_toml(terms)}"


def terms_toml(settings: FederationSettings) -> str:
    """The text of terms.toml: where the federation is, and the terms that a silo agrees to."""
    own: dict[str, Value] = {"name": settings.name, "address": settings.address, "insecure": settings.insecure}
    return f"[federation]\n{to_toml(own)}\n[training]\n{to_toml(agreed_keys(settings.training))}"


def agreed_keys(config: FederationConfig) -> dict[str, Value]:
    """The flat keys of a run that silos agree to; terms that earlier versions lack are left out where empty."""
    keys = {name: value for name, value in flat(config).items() if name in _AGREED or "." in name}
    return {name: value for name, value in keys.items() if value or name not in _LATER}


def split_address(address: str) -> tuple[str, int]:
    """Host and port; raises ConfigurationError.

    >>> split_address("fed.example.org:9092")
    ('fed.example.org', 9092)
    """
    found = _ADDRESS.fullmatch(address)
    if not found or not 0 < int(found["port"]) < 2**16:
        raise ConfigurationError(f"Expected an address HOST:PORT, got {address!r}.")
    return found["host"].strip("[]"), int(found["port"])


_CONNECTION = "federation"


def superlink_command(folder: FederationFolder, settings: FederationSettings) -> list[str]:
    """flower-superlink of a federation."""
    command = [tool("flower-superlink"), "--host", settings.listen, "--port", str(split_address(settings.address)[1])]
    command += ["--database", str(folder.flower_home / "superlink.sqlite")]
    command += ["--disable-runtime-dependency-installation"]
    if settings.insecure:
        return [*command, "--insecure"]
    command += ["--ssl-certfile", str(folder.server_certificate), "--ssl-keyfile", str(folder.server_key)]
    return [*command, "--ssl-ca-certfile", str(folder.public / AUTHORITY), "--enable-supernode-auth"]


def supernode_command(settings: "SiloSettings", *, node_key: str, port: int) -> list[str]:
    """flower-supernode of a silo; `node_key` is the key's path as Flower is to read it."""
    silo = Path(settings.folder) / "silo.toml"
    command = [tool("flower-supernode"), "--superlink", settings.address]
    command += ["--node-config", f"silo={_quote(str(silo))}", "--host", "127.0.0.1", "--port", str(port)]
    if not settings.root_certificate:
        return [*command, "--insecure"]
    return [*command, "--root-certificates", settings.root_certificate, "--auth-supernode-private-key", node_key]


def run_command(app: Path, run_config: Path) -> list[str]:
    """flwr run of a training."""
    return [tool("flwr"), "run", str(app), _CONNECTION, "--run-config", str(run_config), "--stream"]


def nodes_command() -> list[str]:
    """flwr supernode list."""
    return [tool("flwr"), "supernode", "list", _CONNECTION, "--format", "json"]


def register_command(public_key: Path, *, name: str) -> list[str]:
    """flwr supernode register."""
    return [tool("flwr"), "supernode", "register", str(public_key), _CONNECTION, "--name", name, "--format", "json"]


def unregister_command(node: str) -> list[str]:
    """flwr supernode unregister."""
    return [tool("flwr"), "supernode", "unregister", node, _CONNECTION, "--format", "json"]


def runs_command() -> list[str]:
    """flwr list."""
    return [tool("flwr"), "list", _CONNECTION, "--format", "json"]


def stop_command(run: str) -> list[str]:
    """flwr stop."""
    return [tool("flwr"), "stop", run, _CONNECTION, "--format", "json"]


def flower_config(folder: FederationFolder, settings: FederationSettings) -> str:
    """Flower's own config.toml for the operator's commands: they go to loopback, whatever silos use."""
    host = f"[{settings.listen}]" if ":" in settings.listen else "127.0.0.1"
    lines = ["[superlink]", f'default = "{_CONNECTION}"', "", f"[superlink.{_CONNECTION}]"]
    lines += [f'address = "{host}:{split_address(settings.address)[1]}"']
    lines += [
        "insecure = true" if settings.insecure else f"root-certificates = {_quote(str(folder.public / AUTHORITY))}"
    ]
    return "\n".join(lines) + "\n"


def shell_line(command: Sequence[str], home: Path) -> str:
    """The command as a shell takes it."""
    plain = shlex.join([Path(command[0]).name, *command[1:]])
    return f"FLWR_HOME={shlex.quote(str(home))} FLWR_TELEMETRY_ENABLED=0 {plain}"


def _quote(text: str) -> str:
    """A TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
