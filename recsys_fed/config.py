"""Configuration of a run, parsed once at the edge: command line, scenario file or Flower run config.

All three speak the same flat keys, `embedding-dim = 16` or `dp-sgd.schedule = "local"`; a nested TOML table
[dp-sgd] is the same as the dotted key. Below this module nobody reads a mapping.
"""

import json
import math
import tomllib
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from recsys_fed import checks, extensions
from recsys_fed.errors import ConfigurationError
from recsys_fed.settings_file import Value, check_keys, flatten, keys_of, read_fields, read_tables

NOISE = ("per-silo", "distributed")
# Earlier words, which runs, federations and silos on disk may hold.
_OLD_NOISE = {"own": "per-silo", "central": "distributed"}
SECURE_AGGREGATION = ("auto", "on", "off")
ROBUST = ("none", "median", "trimmed-mean")
BUILT_IN_TRAINERS = ("auto", "spectral", "dp-sgd", "popularity", "ratings", "torch")
_TRAINERS, _RATINGS = "recsys_fed.trainers", "ratings"
# Trainers with a table of settings of their own.
_WITH_SETTINGS = ("dp-sgd", _RATINGS, "torch")
FEATURE_KINDS = ("categories", "decades", "words", "vectors")
ENGINES = ("in-process", "flower")
HELD_OUT = ("test", "validation")
TARGETS = ("auto", "any", "next", "rating")
AUTO, OFF = "auto", "off"
COLUMN_ROLES = ("user", "item", "value", "time", "kind", "weight", "test")
_REQUIRED_ROLES = ("user", "item")
_MOST_WEIGHT = 1e6
# Values of an attribute that weigh users: each is a pass over its users in every round.
_MOST_GROUPS = 32
_MOST_HALF_LIFE = 10_000

T = TypeVar("T")


def _key(default: T, help: str) -> T:
    """A field, and what the command line says of its option."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """What server and silos agree on. All of it is public.

    Attributes:
        trainer: "auto", "spectral", "dp-sgd", "popularity", "ratings", "torch", or the name of one that somebody
            brings (`extensions`). Where the target is a rating, the first two stand for "ratings".
        epsilon, delta: the guarantee of every user, over all rounds of the run; epsilon may be inf (no noise).
        rounds: exchanges of messages that train, counts included; 0 takes the trainer's rule.
        embedding_dim: length of the vectors; 0 takes the trainer's rule.
        noise: "per-silo", every silo adds all of the noise; "distributed", the silos' noise adds up to it and nothing
            hides their messages: what secure aggregation would reach, private only against those who see the sum.
        secure_aggregation: "on", the server learns sums of silos only, and their noise adds up to once; "off";
            "auto", on for three or more deployed silos, see `federation.noise_split`.
        secure_aggregation_threshold: silos that must stay to the end of a round; 0 takes the rule.
        secure_aggregation_colluders: silos whose noise counts for nothing, because they tell the server what they
            know, or listen: a silo knows its own share of a noise that is split. Also with noise = "distributed".
        metrics_epsilon: part of epsilon that pays for the metrics which the silos report as a noisy sum at the end;
            0 means that no metric leaves a silo, -1 takes a twentieth of epsilon, or 0 where the target is a rating.
        metric_groups: "gender:F,M": also report these metrics for users of each of these values of an attribute, and
            for all others; the same noise and charge, see `federation.metrics_round`. "": for all users together.
        silos: how many silos take part; 0 takes all that are connected at the start.
        max_silos_per_user: in how many silos a user may be; every release then counts so many times.
        declared_users: public order of magnitude of the users of all silos together.
        declared_interactions: public order of magnitude of the interactions of one user; 0: nobody says.
        target: what the model is to answer, a public declaration: "any" item that a user would like, or the "next"
            one, for which silos need times; or the "rating" that a user would give, for which they need ratings.
            "auto" is "next" in a simulation whose split holds out what came last, else "any".
        order: whether items that follow each other closely count as together in what a silo contributes, with
            weights that fall by half over so many positions: "auto", by the trainer's rule where the target is the
            next item; "off"; or a number of positions. Of spectral.
        recency: half-life of the interactions in a user's vector (`models.items.FoldIn`): "auto", by a rule where the
            target is the next item; "off"; a number of positions; or of days, as in "30d".
        long_tail: how far what the model recommends goes to rarer items, from 0 to below 1; see
            `models.items.favour_rare_items`.
        user_weights: "gender:F=1,M=0.5": what a user of each value of an attribute counts in every sum that trains,
            above 0 and at most 1; others count the least of these. "": all count alike. See
            `federation.user_weights`.
        item_features: use public item features where the catalogue has them.
        feature_kinds: which, of categories, decades, words and vectors, with commas; see `catalogue.features`.
        earlier_trainings: how many trainings of this federation came before that this one builds on; public, as the
            plan follows from it.
        earlier: folders of those runs on the server, oldest first, a JSON list of paths.
        most_earlier_trainings: of the terms of a deployed federation: how many of them one may build on.
        catalogue: path of the public catalogue on the server; "" asks the silos for its hash and size only.
        seed: of the server's start, and of a simulation's noise and samples.
        device: "auto", "cpu", "cuda", ... of the silos.
        threads: of the numerical libraries; 0 takes all processors. Equal threads give equal bytes.
        output: folder for the server's results, with a checkpoint after each round; "" writes none.
        training: public name that ledgers and certificates know the run by; "" is Flower's number of it. A training
            that was interrupted goes on under its name.
        resume: go on from the checkpoint in `output`, if there is one.
        roster: path on the server of the admitted silos' names and ledger keys; "" lets every connected silo in.
        minimum_silos: a round needs answers of so many; 0 needs at least one. Divisors stay those of all `silos`.
        robust: "none", sums of silos; "median" or "trimmed-mean" of the silos by coordinate (`aggregation`).
        trim: share of the silos that the trimmed mean leaves out at each end.
        dp_sgd: settings of the trainer dp-sgd.
        trainer_settings: settings of a trainer that somebody brings, JSON; or `key = value, ...` as in TOML. In flat
            keys they are NAME.key, too.
    """

    trainer: str = _key("spectral", "auto, spectral, dp-sgd, popularity, ratings or torch.")
    epsilon: float = _key(8.0, "Privacy budget of every user; inf trains without noise.")
    delta: float = _key(1e-6, "Delta of the guarantee, below 1 / declared users.")
    rounds: int = _key(0, "Exchanges of messages; 0 takes the trainer's rule.")
    embedding_dim: int = _key(0, "Length of the vectors; 0 takes the rule.")
    noise: str = _key("per-silo", "per-silo: each silo adds all noise; distributed: once on the sum.")
    secure_aggregation: str = _key("auto", "The server learns sums of silos only, with noise once on the sum.")
    secure_aggregation_threshold: int = _key(0, "Silos that must stay in a round; 0: the rule.")
    secure_aggregation_colluders: int = _key(1, "Silos whose noise does not count.")
    metrics_epsilon: float = _key(-1.0, "Part of epsilon for the metrics that silos report; 0: no metric leaves.")
    metric_groups: str = _key("", "ATTRIBUTE:VALUE,...: groups whose metrics silos report too, as gender:F,M.")
    silos: int = _key(10, "Number of silos.")
    max_silos_per_user: int = _key(1, "In how many silos a user may be; every release then counts so many times.")
    declared_users: int = _key(10_000, "Public order of magnitude of users of all silos.")
    declared_interactions: int = _key(0, "Public order of magnitude of a user's interactions; 0: not said.")
    target: str = _key(AUTO, "any item that a user would like, the next one, or a rating; auto: as the split asks.")
    order: str = _key(AUTO, "auto, off, or the half-life, in positions, with which items count as together.")
    recency: str = _key(AUTO, "auto, off, or the half-life of a history: positions, or days as in 30d.")
    long_tail: float = _key(0.0, "From 0 to below 1: recommend rarer items; it costs recall and no privacy.")
    user_weights: str = _key("", "ATTRIBUTE:VALUE=WEIGHT,...: what users count in training, as gender:F=1,M=0.5.")
    item_features: bool = _key(True, "Use public item features.")
    feature_kinds: str = _key("categories,decades,words", "Of categories,decades,words,vectors; with commas.")
    earlier_trainings: int = 0
    earlier: str = ""
    most_earlier_trainings: int = 0
    catalogue: str = ""
    seed: int = _key(0, "Seed of splits, silos, start and simulated noise.")
    device: str = _key("auto", "Device of torch: auto, cpu, cuda or cuda:N.")
    threads: int = _key(0, "Threads of torch and BLAS; 0: one a processor.")
    output: str = ""
    training: str = ""
    resume: bool = False
    roster: str = ""
    minimum_silos: int = _key(0, "A round goes on while so many answer.")
    robust: str = _key("none", "none, median or trimmed-mean over silos.")
    trim: float = 0.2
    dp_sgd: Mapping[str, Value] = field(default_factory=dict)
    trainer_settings: str = ""

    def __post_init__(self) -> None:
        if self.trainer not in BUILT_IN_TRAINERS:
            checks.one_of((*BUILT_IN_TRAINERS, *extensions.extension_names(_TRAINERS)), trainer=self.trainer)
        object.__setattr__(self, "trainer_settings", _as_json(self.trainer_settings))
        object.__setattr__(self, "noise", _rename_noise(self.noise))
        checks.one_of(NOISE, noise=self.noise)
        checks.one_of(TARGETS, target=self.target)
        object.__setattr__(self, "trainer", _trainer_for(self.target, self.trainer))
        if self.trainer == _RATINGS:
            object.__setattr__(self, "target", "rating")
        half_lives_of(self.order, name="order", days=False)
        half_lives_of(self.recency, name="recency", days=True)
        user_weights_of(self.user_weights)
        if set(user_weights_of(self.metric_groups, name="metric-groups")[1].values()) - {1.0}:
            raise ConfigurationError(f"Expected metric-groups without weights, got {self.metric_groups!r:.200}.")
        checks.one_of(SECURE_AGGREGATION, secure_aggregation=self.secure_aggregation)
        checks.at_least(0, secure_aggregation_threshold=self.secure_aggregation_threshold)
        checks.at_least(0, secure_aggregation_colluders=self.secure_aggregation_colluders)
        checks.positive_or_inf(epsilon=self.epsilon)
        checks.fraction(delta=self.delta)
        if not 0 <= self.long_tail < 1:
            raise ConfigurationError(f"Expected 0 <= long_tail < 1, got {self.long_tail}.")
        if self.metrics_epsilon != -1:
            checks.non_negative(metrics_epsilon=self.metrics_epsilon)
        checks.at_least(0, rounds=self.rounds, embedding_dim=self.embedding_dim, threads=self.threads)
        checks.at_least(0, earlier_trainings=self.earlier_trainings)
        checks.at_least(0, most_earlier_trainings=self.most_earlier_trainings)
        checks.at_least(0, seed=self.seed, declared_interactions=self.declared_interactions)
        checks.at_least(0, silos=self.silos, minimum_silos=self.minimum_silos)
        checks.one_of(ROBUST, robust=self.robust)
        if not 0 < self.trim < 0.5:
            raise ConfigurationError(f"Expected 0 < trim < 1/2, got {self.trim}.")
        if self.robust != "none" and self.noise != "per-silo":
            raise ConfigurationError(
                "Expected noise = per-silo with a robust step: it looks at each silo's message by itself."
            )
        for kind in self.feature_kinds.split(","):
            checks.one_of(FEATURE_KINDS, feature_kinds=kind)
        checks.at_least(1, declared_users=self.declared_users, max_silos_per_user=self.max_silos_per_user)


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """Where a simulation's data comes from and how it falls into silos.

    Attributes:
        data: name or path of a data set, see `data.locate`; "" takes the first that can be had.
        protocol: name of an evaluation protocol, see `data.protocols`, which fixes some keys; "" is none.
        columns: "user=...,item=..." for tables, see `columns_of`; "" finds the usual names.
        kinds: "view=0.1,buy=1" for tables with kinds of events: the weight of each kind that counts; "" counts all.
        format: "separator=...,encoding=..." of text tables, see `data.readers.reading`; "" finds it out.
        item_catalogue: file of the public catalogue that all silos agreed on; "" takes the items of the data.
        public_users: table of users of no silo who made their histories public, with the columns user, item and
            consent (`data.readers.products`); "" is none.
        split: method of `data.split`; test_fraction: its share, where it has one.
        metrics: names of metrics besides those of every run, with commas; see `evaluation.metrics.choose_metrics`.
        held_out: "test"; or "validation", what to choose settings on: then no test interaction is used for anything.
        partition: method of `data.simulated`; skew: exponent of zipf, alpha of dirichlet.
        min_value: keep only interactions of at least this value; -inf keeps all.
        user_attributes, attribute_columns: a table of users, and NAME=COLUMN,... of it, see `data.readers.users`; ""
            is none.
        hit_weight: only interactions of at least this weight count as found where they are held out; -1 takes half of
            the heaviest kind's, so that all do where there are no kinds.
        ignore_weights: train and fold in as if all interactions counted alike: the control of what weights are worth.
        ledgers: folder of the simulated silos' ledgers and keys; what they hold counts. "" is a new one a run.
        epsilon_limit: limit of a new ledger, over all runs that use it; 0 takes the run's epsilon.
        block_interactions: silos with more interactions train from disk, in blocks; 0 holds all in memory.
        data_seed: of random splits and of who is in which silo; -1 takes the run's seed. With one of its own, runs
            of several seeds differ in start and noise alone.
        shuffle_order: shuffle the order of each user's train interactions: the control of what order is worth.
        train_share: of the train interactions, that are there by now: the oldest, or where there are no times a
            random part. The rest is neither trained on nor ranked. Larger shares hold the smaller ones.
        changed_tastes: share of the users who have other tastes than the data says: their items are exchanged for
            others that are about as popular.
    """

    data: str = _key("", "Data set: a name, or a path, perhaps with #split.")
    protocol: str = _key("", "ultragcn, random90, ncf, ml-100k: data, split and metric of papers.")
    columns: str = _key(
        "",
        "user=NAME,item=NAME, and perhaps value, time, kind, weight; a number is a position in a file without a "
        "header; NAME empty switches a role off.",
    )
    kinds: str = _key(
        "", "KIND=WEIGHT,... of a table with kinds of events: view=0.1,buy=1; other kinds are left out."
    )
    format: str = _key(
        "",
        "Of text tables, where it cannot be seen: separator=tab (comma, semicolon, pipe, colons, blank or a letter), "
        "encoding=NAME, header=no, lists=blank (several items in a cell).",
    )
    item_catalogue: str = _key("", "Public catalogue (a catalogue.parquet); without one, the items of the data.")
    public_users: str = _key(
        "", "Table of histories that their owners made public: user, item, and consent, what each has agreed to."
    )
    user_attributes: str = _key("", "Table of users, whose first column, or the one called user, holds their ids.")
    attribute_columns: str = _key(
        "", "NAME=COLUMN,... of that table; a number is a position in a file without a header."
    )
    split: str = _key("auto", "auto, given, per-user-random, leave-last-out, leave-two-out, global-temporal.")
    metrics: str = _key("", "Further metrics, with commas, that a package brings.")
    held_out: str = _key("test", "test, or validation: to choose settings without a test item.")
    test_fraction: float = _key(0.1, "Share of the test items, where the split has one.")
    partition: str = _key("equal", "equal, zipf (sizes), dirichlet (tastes).")
    skew: float = _key(1.0, "Exponent of zipf, concentration of dirichlet.")
    min_value: float = _key(-math.inf, "Keep only interactions of at least this value.")
    hit_weight: float = _key(-1.0, "Least weight that counts as a hit; -1: half of the heaviest kind's.")
    ignore_weights: bool = _key(False, "Leave weights and kinds out of training: the control of what they are worth.")
    ledgers: str = _key("", "Folder of the silos' ledgers; what they hold counts.")
    epsilon_limit: float = _key(0.0, "Limit of new ledgers, over all runs that use them.")
    block_interactions: int = 0
    data_seed: int = -1
    shuffle_order: bool = _key(False, "Shuffle each user's train order: what is gained by order must go.")
    train_share: float = 1.0
    changed_tastes: float = 0.0

    def __post_init__(self) -> None:
        checks.one_of(HELD_OUT, held_out=self.held_out)
        checks.at_least(0, block_interactions=self.block_interactions)
        checks.at_least(-1, data_seed=self.data_seed)
        checks.fraction(test_fraction=self.test_fraction)
        checks.positive(skew=self.skew)
        checks.probability(train_share=self.train_share)
        if not 0 <= self.changed_tastes <= 1:
            raise ConfigurationError(f"Expected 0 <= changed_tastes <= 1, got {self.changed_tastes}.")
        if self.epsilon_limit:
            checks.positive_or_inf(epsilon_limit=self.epsilon_limit)
        if math.isnan(self.min_value):
            raise ConfigurationError("Expected min_value to be a number or -inf, got nan.")
        columns_of(self.columns)
        kinds_of(self.kinds)
        if bool(self.user_attributes) != bool(self.attribute_columns):
            raise ConfigurationError("Expected a table of users and the columns of their attributes together.")


def _trainer_for(target: str, trainer: str) -> str:
    """The trainer that answers the target, where the one that is named is the default or leaves it open.

    Raises:
        ConfigurationError: the one that is named answers another.
    """
    if target == "rating":
        if trainer in ("popularity", "torch"):
            raise ConfigurationError(f"Expected trainer = ratings or dp-sgd for target = rating, got {trainer}.")
        return _RATINGS if trainer in ("auto", "spectral") else trainer
    if trainer == _RATINGS and target != AUTO:
        raise ConfigurationError(f"Expected target = rating for the trainer ratings, got {target}.")
    return trainer


def half_lives_of(text: str, *, name: str, days: bool) -> tuple[float, float] | None:
    """Read "3.5" as a half-life in positions and, where `days` are allowed, "30d" in days; None for "auto".

    >>> half_lives_of("3.5", name="recency", days=True), half_lives_of("30d", name="recency", days=True)
    ((3.5, 0.0), (0.0, 30.0))
    >>> half_lives_of("off", name="recency", days=True)
    (0.0, 0.0)

    Raises:
        ConfigurationError: it is something else.
    """
    if text in (AUTO, OFF):
        return None if text == AUTO else (0.0, 0.0)
    by_clock = days and text.endswith("d")
    try:
        number = float(text.removesuffix("d") if by_clock else text)
    except ValueError:
        number = math.nan
    if not 0 < number <= _MOST_HALF_LIFE:
        forms = "a number of positions, or of days as in 30d" if days else "a number of positions"
        raise ConfigurationError(
            f"Expected {name} as auto, off, or {forms}, above 0 and at most {_MOST_HALF_LIFE:,}; got {text!r}."
        )
    return (0.0, number) if by_clock else (number, 0.0)


def columns_of(text: str) -> dict[str, str]:
    """Read "user=customer,item=sku" as a mapping from our names to those of a table's columns.

    An empty name switches off a role that a table may lack; a user and an item it must have.

    >>> columns_of("user=customer,item=sku,time=")
    {'user': 'customer', 'item': 'sku', 'time': ''}

    Raises:
        ConfigurationError: it is something else, names another role, or switches off user or item.
    """
    columns: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        role, equals, column = part.partition("=")
        if role not in COLUMN_ROLES or not equals:
            raise ConfigurationError(
                f"Expected columns as ROLE=NAME,... with a ROLE of {', '.join(COLUMN_ROLES)}, got {part!r}."
            )
        if role in _REQUIRED_ROLES and not column:
            raise ConfigurationError(f"Expected a column for {role}, which no table can lack, got {part!r}. Name it.")
        columns[role] = column
    return columns


def kinds_of(text: str) -> dict[str, float]:
    """Read "view=0.1,buy=1" as weights of kinds of events; a kind without a number counts 1.

    >>> kinds_of("view=0.1,buy")
    {'view': 0.1, 'buy': 1.0}

    Raises:
        ConfigurationError: it is something else.
    """
    kinds: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        kind, _, weight = part.rpartition("=") if "=" in part else (part, "", "1")
        try:
            kinds[kind.strip()] = float(weight)
        except ValueError as error:
            raise ConfigurationError(f"Expected kinds as KIND=WEIGHT,..., got {part!r}.") from error
    check_kinds(kinds)
    return kinds


def check_kinds(kinds: Mapping[str, float]) -> None:
    """Refuse weights that are none, or all zero.

    Raises:
        ConfigurationError: says which.
    """
    for kind, weight in kinds.items():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not kind or not is_number or not 0 <= weight <= _MOST_WEIGHT:
            raise ConfigurationError(
                f"Expected a kind of event with a weight from 0 to {_MOST_WEIGHT:g}, got {kind!r} = {weight!r}."
            )
    if kinds and not any(kinds.values()):
        raise ConfigurationError("Expected a kind of event with a weight above 0, got none: no row would count.")


def user_weights_of(text: str, *, name: str = "user-weights") -> tuple[str, dict[str, float]]:
    """Read "gender:F,M=0.5" as an attribute and what users of each of its values count; 1 where nothing is said.

    >>> user_weights_of("gender:F,M=0.5"), user_weights_of("")
    (('gender', {'F': 1.0, 'M': 0.5}), ('', {}))

    Raises:
        ConfigurationError: it is something else, or a weight is not above 0 and at most 1.
    """
    attribute, colon, table = text.partition(":")
    weights: dict[str, float] = {}
    for part in filter(None, table.split(",")):
        value, _, weight = part.rpartition("=") if "=" in part else (part, "", "1")
        try:
            weights[value.strip()] = float(weight)
        except ValueError:
            weights[value.strip()] = math.nan
    named = bool(attribute.strip() and weights and all(weights)) and len(weights) == len(table.split(","))
    if text and not (named and all(0 < weight <= 1 for weight in weights.values()) and len(weights) <= _MOST_GROUPS):
        raise ConfigurationError(
            f"Expected {name} as ATTRIBUTE:VALUE,... (in user-weights VALUE=WEIGHT, above 0 and at most 1) of at "
            f"most {_MOST_GROUPS} values, each once, got {text!r:.200}."
        )
    return (attribute.strip(), weights) if colon else ("", {})


def current_noise(word: str) -> str:
    """The present word for what a record calls its noise; earlier ones were own and central.

    >>> current_noise("central"), current_noise("per-silo")
    ('distributed', 'per-silo')
    """
    return _OLD_NOISE.get(word, word)


def _rename_noise(word: str) -> str:
    """The present word, with a note to whoever gave the old one."""
    current = current_noise(word)
    if current != word:
        warnings.warn(
            f"noise = {word} is called {current} now. The old word still works.", FutureWarning, stacklevel=4
        )
    return current


def flat(config: FederationConfig | SimulationConfig) -> dict[str, Value]:
    """Return the flat keys of a configuration: what `parse` reads."""
    record: dict[str, Value] = {}
    for name, value in asdict(config).items():
        key = name.replace("_", "-")
        if isinstance(value, Mapping):
            record |= {f"{key}.{inner.replace('_', '-')}": item for inner, item in value.items()}
        else:
            record[key] = value
    return record


def parse(kind: type[T], record: Mapping[str, object]) -> T:
    """Read one of the dataclasses above from flat keys; keys of other parts are left to them.

    Raises:
        ConfigurationError: a value of the wrong type or out of range.
    """
    values: dict[str, Any] = read_fields(kind, record)
    if kind is FederationConfig:
        inner = {key.removeprefix("dp-sgd."): value for key, value in record.items() if key.startswith("dp-sgd.")}
        values["dp_sgd"] = {key.replace("-", "_"): value for key, value in inner.items()}
        trainer = str(record.get("trainer", FederationConfig.trainer))
        values |= _settings_of_trainer(_trainer_for(str(record.get("target", AUTO)), trainer), record)
    return kind(**values)


def _settings_of_trainer(name: str, record: Mapping[str, object]) -> dict[str, Any]:
    """Flat keys NAME.key of a trainer that somebody brings, and what stands under trainer-settings beside them."""
    own = {
        key.removeprefix(f"{name}."): value for key, value in record.items() if name and key.startswith(f"{name}.")
    }
    if not own or name == "dp-sgd":
        return {}
    beside = json.loads(_as_json(str(record.get("trainer-settings", ""))) or "{}")
    return {"trainer_settings": json.dumps({**beside, **own}, sort_keys=True)}


def _as_json(text: str) -> str:
    """Settings of a trainer as JSON with sorted keys; "" where there are none."""
    if not text.strip():
        return ""
    try:
        found = (
            json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(f"settings = {{{text}}}")["settings"]
        )
    except ValueError as error:
        raise ConfigurationError(f"Expected trainer-settings as JSON or `key = value, ...`: {error}.") from error
    return json.dumps(found, sort_keys=True) if found else ""


def check_run_keys(keys: Iterable[str], *, place: str = "a run", also: Collection[str] = ()) -> None:
    """Refuse flat keys that no part of the configuration reads; `also`: what the place reads besides."""
    names = {*keys_of(FederationConfig), *keys_of(SimulationConfig), *also}
    brought = extensions.extension_names(_TRAINERS)
    plain = [key for key in keys if not ("." in key and key.partition(".")[0] in (*_WITH_SETTINGS, *brought))]
    check_keys(plain, names, place=place)


def read_toml(path: Path) -> dict[str, object]:
    """Read a scenario or a run's config.toml as flat keys.

    Raises:
        DataNotFoundError: there is no such file.
        DataFormatError: it is not TOML.
        ConfigurationError: it has a key that nothing reads.
    """
    keys = flatten(read_tables(path, what="a scenario file"))
    check_run_keys(keys, place=f"a run in {path}", also=("engine",))
    return keys
