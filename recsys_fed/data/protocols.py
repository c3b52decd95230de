"""Evaluation protocols by name: the data, split and metric of published tables, so that figures can be compared.

A protocol fixes keys of a simulation. What it fixes cannot be changed beside it: figures under its name would not
be those of the protocol.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from recsys_fed.checks import one_of
from recsys_fed.config import SimulationConfig
from recsys_fed.errors import ConfigurationError
from recsys_fed.settings_file import Value


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a protocol fixes, and what it reports.

    Attributes:
        data: name of the data set, taken where none is given.
        given_split: of the splits that come with the source, the one to read ("" where there is only one, or none).
        keys: further keys of `SimulationConfig`.
        metrics: names that its published tables have.
        sampled_negatives: 0, or the number of negatives that a test item is ranked among in those metrics.
        note: what has to be said beside its figures.
    """

    data: str
    keys: Mapping[str, Value]
    metrics: tuple[str, ...]
    note: str
    given_split: str = ""
    sampled_negatives: int = 0


_RANKED = "all items ranked but those in train; recall divides by the number of the user's test items"

PROTOCOLS: dict[str, Protocol] = {
    "ultragcn": Protocol(
        data="ultragcn",
        keys={"split": "given"},
        metrics=("recall@20", "ndcg@20"),
        note=f"split of the UltraGCN paper (arXiv 2110.15114); {_RANKED}",
    ),
    "random90": Protocol(
        data="ml-1m",
        given_split="random90",
        keys={"split": "given"},
        metrics=("recall@20", "ndcg@20"),
        note=f"a random tenth of MovieLens-1M; {_RANKED}",
    ),
    "ncf": Protocol(
        data="ml-1m",
        given_split="ncf",
        keys={"split": "given"},
        metrics=("sampled_hr@10", "sampled_ndcg@10"),
        sampled_negatives=99,
        note="leave-one-out of the NCF paper (arXiv 1708.05031), one item among 99 negatives: for comparison with "
        "papers only, sampled metrics need not order models as a ranking of all items does",
    ),
    "ml-100k": Protocol(
        data="ml-100k",
        keys={"split": "leave-two-out", "min_value": 4.0},
        metrics=("ndcg@10", "hr@10"),
        note="ratings of 4 and 5; each user's latest is the test item, the one before it the validation item; of "
        "equal times the later row of the file is later; users with fewer than three hold nothing out; all items "
        "ranked but those in train and, for the test, the validation item",
    ),
}


def protocol_of(config: SimulationConfig) -> Protocol | None:
    """The protocol that a configuration names, or None where it names none.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if not config.protocol:
        return None
    one_of(PROTOCOLS, protocol=config.protocol)
    return PROTOCOLS[config.protocol]


def apply_protocol(config: SimulationConfig) -> SimulationConfig:
    """The configuration with the keys that its protocol fixes filled in; once filled in, nothing changes any more.

    Raises:
        ConfigurationError: there is no such protocol, or the configuration says otherwise than it.
    """
    protocol = protocol_of(config)
    if protocol is None:
        return config
    defaults = {declared.name: declared.default for declared in fields(SimulationConfig)}
    for name, value in protocol.keys.items():
        found = getattr(config, name)
        if found not in (defaults[name], value):
            raise ConfigurationError(
                f"Expected {name.replace('_', '-')} = {value!r} under the protocol {config.protocol}, got {found!r}. "
                "Leave it out, or leave out the protocol."
            )
    return replace(config, data=_with_split(config, protocol), **protocol.keys)  # type: ignore[arg-type]


def _with_split(config: SimulationConfig, protocol: Protocol) -> str:
    data = config.data or protocol.data
    if not protocol.given_split:
        return data
    _, mark, split = data.partition("#")
    if mark and split != protocol.given_split:
        raise ConfigurationError(
            f"Expected data with #{protocol.given_split} under the protocol {config.protocol}, got {data!r}."
        )
    return data if mark else f"{data}#{protocol.given_split}"
