"""Requests, updates and greetings as the records of Flower messages, and back. Nothing else ever travels.

    request   tables: ArrayRecord of released tables;  request: ConfigRecord of public numbers
    update    total: ArrayRecord with one int32 table;  update: ConfigRecord, the release event and the silo's name
    invitation  invitation: ConfigRecord with the version of the server's plan and, of a training that builds on
                earlier ones, their certificates; a greeting is the answer
    greeting  greeting: ConfigRecord with the catalogue's hash and size, the silo's name and its ledger's key
    conclusion    conclusion: ConfigRecord with the released item embeddings, the bytes of their file, and digests of
                  released tables
    certificate   certificate: ConfigRecord with the silo's signed certificate of the run

    masked request  a request and delivery: ConfigRecord with the blob that a masked round delivers to the silo
    masked update   masked: ConfigRecord with the signed, masked integers, the release event and the silo's name
    the other exchanges of a masked round (federation.secure_aggregation) are one blob each, under their names:
    terms, keys, roster, shares, survivors, confirmation, confirmations, unmasking

There is no MetricRecord and no count of users or interactions in any of them.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any, cast, get_type_hints

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from recsys_fed.errors import DataFormatError, ProtocolError
from recsys_fed.federation.messages import PLAN, PROTOCOL, Greeting, MaskedUpdate, Request, Update
from recsys_fed.privacy.events import ReleaseEvent

_TABLE_TYPES = ("float32", "int64")
# Fields of a request that are not scalars of the config record.
_STRUCTURED = ("tables", "settings", "shape")
_SETTING = "settings."
_DIGEST = re.compile("[0-9a-f]{64}")
# All records of each kind of message.
_RECORDS = {
    "request": {"tables", "request"},
    "update": {"total", "update"},
    "invitation": {"invitation"},
    "greeting": {"greeting"},
    "conclusion": {"conclusion"},
    "certificate": {"certificate"},
    "delivery": {"tables", "request", "delivery"},
    "masked": {"masked"},
    **{
        name: {name}
        for name in (
            "terms",
            "keys",
            "roster",
            "shares",
            "survivors",
            "confirmation",
            "confirmations",
            "unmasking",
        )
    },
}


def request_to_records(request: Request) -> RecordDict:
    """Encode a request; tables travel as float32 or int64."""
    config: dict[str, Any] = {"protocol": PROTOCOL, "rows": request.shape[0], "columns": request.shape[1]}
    config |= {f.name: getattr(request, f.name) for f in fields(request) if f.name not in _STRUCTURED}
    config |= {_SETTING + name: float(value) for name, value in request.settings.items()}
    tables = OrderedDict((name, Array(table.detach().cpu().numpy())) for name, table in request.tables.items())
    return RecordDict({"tables": ArrayRecord(tables), "request": ConfigRecord(config)})


def request_from_records(records: RecordDict) -> Request:
    """Decode a request and validate it.

    Raises:
        ProtocolError: it is not a request of this protocol, or a table is not finite.
    """
    config = _config(records, "request")
    settings = {k.removeprefix(_SETTING): v for k, v in config.items() if k.startswith(_SETTING)}
    names = [f.name for f in fields(Request) if f.name not in _STRUCTURED]
    _only({*names, "protocol", "rows", "columns"} | {_SETTING + name for name in settings}, config)
    try:
        return Request(
            tables={name: _table(name, array) for name, array in records.array_records["tables"].items()},
            settings=cast(dict[str, float], settings),
            shape=(int(config["rows"]), int(config["columns"])),
            **{name: config[name] for name in names},
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"Expected a request of protocol {PROTOCOL}: {error}.") from error


def masked_request_to_records(request: Request, delivery: bytes) -> RecordDict:
    """Encode a request whose answer is masked, with the delivery for one silo."""
    records = request_to_records(request)
    return RecordDict({**records, **blob_to_records("delivery", delivery)})


def masked_request_from_records(records: RecordDict) -> tuple[Request, bytes]:
    """Decode a masked request and its delivery; raises ProtocolError for anything else."""
    delivery = blob_from_records("delivery", records)
    return request_from_records(RecordDict({name: records[name] for name in ("tables", "request")})), delivery


def masked_to_records(update: MaskedUpdate) -> RecordDict:
    """Encode a masked update."""
    config: dict[str, Any] = {**update.event.to_dict(), "silo": update.silo, "content": update.content}
    config |= {"catalogue_hash": update.catalogue_hash, "nonce": update.nonce}
    return RecordDict({"masked": ConfigRecord({"protocol": PROTOCOL, **config})})


def masked_from_records(records: RecordDict) -> MaskedUpdate:
    """Decode a masked update; its integers stay closed.

    Raises:
        ProtocolError: it is not a masked update of this protocol.
    """
    config = _config(records, "masked")
    try:
        silo, catalogue_hash, nonce = (str(config.pop(name)) for name in ("silo", "catalogue_hash", "nonce"))
        config.pop("protocol")
        content = config.pop("content")
        event = ReleaseEvent.from_dict(config)
    except (KeyError, DataFormatError) as error:
        raise ProtocolError(f"Expected a masked update of protocol {PROTOCOL}: {error}.") from error
    if not isinstance(content, bytes):
        raise ProtocolError(f"Expected the bytes of a masked update, got {type(content).__name__}.")
    return MaskedUpdate(silo=silo, content=content, event=event, catalogue_hash=catalogue_hash, nonce=nonce)


def update_to_records(update: Update) -> RecordDict:
    """Encode an update."""
    config: dict[str, Any] = {**update.event.to_dict(), "silo": update.silo}
    config |= {"catalogue_hash": update.catalogue_hash, "nonce": update.nonce}
    total = ArrayRecord(OrderedDict(total=Array(update.total)))
    return RecordDict({"total": total, "update": ConfigRecord({"protocol": PROTOCOL, **config})})


def update_from_records(records: RecordDict) -> Update:
    """Decode an update and validate it.

    Raises:
        ProtocolError: it is not an update of this protocol.
    """
    config = _config(records, "update")
    try:
        silo, catalogue_hash, nonce = (str(config.pop(name)) for name in ("silo", "catalogue_hash", "nonce"))
        config.pop("protocol")
        total = _array("total", records.array_records["total"]["total"])
        if total.dtype != np.int32 or total.ndim != 2:
            raise ProtocolError(f"Expected a table of int32 in an update, got {total.dtype} {total.shape}.")
        event = ReleaseEvent.from_dict(config)
    except (KeyError, DataFormatError) as error:
        raise ProtocolError(f"Expected an update of protocol {PROTOCOL}: {error}.") from error
    return Update(silo=silo, total=total, event=event, catalogue_hash=catalogue_hash, nonce=nonce)


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a server sends to be greeted.

    Attributes:
        plan: version of the plan that it computes.
        earlier: of each earlier training that this one builds on, oldest first, its certificates; see
            `certificates.earlier`.
    """

    plan: str = PLAN
    earlier: tuple[bytes, ...] = ()


def invitation_to_records(invitation: Invitation) -> RecordDict:
    """Encode an invitation."""
    config: dict[str, Any] = {"protocol": PROTOCOL, "plan": invitation.plan}
    config |= {"earlier": list(invitation.earlier)} if invitation.earlier else {}
    return RecordDict({"invitation": ConfigRecord(config)})


def invitation_from_records(records: RecordDict) -> Invitation:
    """Decode an invitation; raises ProtocolError for anything else."""
    config = _config(records, "invitation")
    _only({"protocol", "plan", "earlier"}, config)
    plan, earlier = config.get("plan"), config.get("earlier", [])
    if type(plan) is not str:
        raise ProtocolError("Expected an invitation with the version of the server's plan.")
    if not (isinstance(earlier, list) and all(isinstance(one, bytes) for one in earlier)):
        raise ProtocolError("Expected certificates of earlier trainings in an invitation.")
    return Invitation(plan=plan, earlier=tuple(earlier))


def greeting_to_records(greeting: Greeting) -> RecordDict:
    """Encode a greeting."""
    config: dict[str, Any] = {"protocol": PROTOCOL}
    config |= {f.name: getattr(greeting, f.name) for f in fields(greeting)}
    return RecordDict({"greeting": ConfigRecord(config)})


def greeting_from_records(records: RecordDict) -> Greeting:
    """Decode a greeting.

    Raises:
        ProtocolError: it is not a greeting of this protocol.
    """
    config = _config(records, "greeting")
    types = get_type_hints(Greeting)
    _only({"protocol", *types}, config)
    for name, expected in types.items():
        # No conversion: what was signed is what is read.
        if type(config.get(name)) is not expected:
            got = type(config.get(name)).__name__
            raise ProtocolError(f"Expected {name} of a greeting to be {expected.__name__}, got {got}.")
    return Greeting(**{name: config[name] for name in types})


def blob_to_records(name: str, content: bytes) -> RecordDict:
    """Encode a message of one blob: a *conclusion* or a *certificate*."""
    return RecordDict({name: ConfigRecord({"protocol": PROTOCOL, "content": content})})


def blob_from_records(name: str, records: RecordDict) -> bytes:
    """Decode a message of one blob; raises ProtocolError for anything else."""
    config = _config(records, name)
    if set(config) != {"protocol", "content"} or not isinstance(config["content"], bytes):
        raise ProtocolError(f"Expected a {name} with its content, got the keys {sorted(config)}.")
    content: bytes = config["content"]
    return content


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a silo is told at the end of a training, and signs.

    Attributes:
        model: the bytes of the released item embeddings.
        tables: SHA-256 of the released tables that the server keeps; earlier: those of trainings that were pooled.
    """

    model: bytes
    tables: str = ""
    earlier: tuple[str, ...] = ()


def conclusion_to_records(conclusion: Conclusion) -> RecordDict:
    """Encode a conclusion."""
    digests = {"tables": conclusion.tables, "earlier": ",".join(conclusion.earlier)}
    return RecordDict({"conclusion": ConfigRecord({"protocol": PROTOCOL, "content": conclusion.model, **digests})})


def conclusion_from_records(records: RecordDict) -> Conclusion:
    """Decode a conclusion; raises ProtocolError for anything else."""
    config = _config(records, "conclusion")
    _only({"protocol", "content", "tables", "earlier"}, config)
    model, tables, earlier = (config.get(name) for name in ("content", "tables", "earlier"))
    if not (isinstance(model, bytes) and isinstance(tables, str) and isinstance(earlier, str)):
        raise ProtocolError(f"Expected a conclusion with a model and digests, got the keys {sorted(config)}.")
    digests = tuple(earlier.split(",")) if earlier else ()
    if not all(_DIGEST.fullmatch(one) for one in (*digests, *([tables] if tables else []))):
        raise ProtocolError("Expected SHA-256 digests of released tables in a conclusion.")
    return Conclusion(model=model, tables=tables, earlier=digests)


def payload_bytes(records: RecordDict) -> int:
    """Bytes of the records' content: tables and configuration, without Flower's envelope."""
    return sum(record.count_bytes() for record in records.values())


def _config(records: RecordDict, name: str) -> dict[str, Any]:
    if set(records) != _RECORDS[name] or name not in records.config_records:
        raise ProtocolError(f"Expected a message with a {name}: {sorted(_RECORDS[name])}, got {sorted(records)}.")
    config: dict[str, Any] = dict(records.config_records[name])
    if type(config.get("protocol")) is not int or config["protocol"] != PROTOCOL:
        raise ProtocolError(
            f"Expected protocol {PROTOCOL}, got {config.get('protocol')!r}. Install the same version everywhere."
        )
    return config


def _only(known: set[str], config: dict[str, Any]) -> None:
    """Refuse what nothing reads: a peer that sends it means something by it."""
    unknown = sorted(set(config) - known)
    if unknown:
        raise ProtocolError(
            f"Expected keys of protocol {PROTOCOL}, got {unknown[0]!r:.80}. Install the same version."
        )


def _array(name: str, array: Array) -> np.ndarray[Any, Any]:
    """Numpy view of a message's array; Flower refuses pickled content, and archives are refused here."""
    if not array.data.startswith(np.lib.format.MAGIC_PREFIX):
        raise ProtocolError(f"Expected a numeric table {name} in numpy's format, got something else.")
    try:
        return array.numpy()
    except Exception as error:
        raise ProtocolError(f"Expected a numeric table {name}: {error}.") from error


def _table(name: str, array: Array) -> torch.Tensor:
    values = _array(name, array)
    if str(values.dtype) not in _TABLE_TYPES:
        raise ProtocolError(f"Expected table {name} of {' or '.join(_TABLE_TYPES)}, got {values.dtype}.")
    table = torch.from_numpy(values.copy())
    if table.is_floating_point() and not table.isfinite().all():
        raise ProtocolError(f"Expected finite values in table {name}, got NaN or infinity.")
    return table
