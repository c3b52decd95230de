"""What is decoded is what was encoded, also through Flower's own serialisation."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st
from message_strategies import greetings, masked_updates, requests, updates
from sample_messages import REQUEST

from recsys_fed.errors import ProtocolError
from recsys_fed.federation import wire
from recsys_fed.federation.messages import request_digest


def carried(records: RecordDict, *, serialised: bool) -> RecordDict:
    """The records as the other side gets them."""
    if not serialised:
        return records
    proto = recorddict_to_proto(records)
    return recorddict_from_proto(type(proto).FromString(proto.SerializeToString()))


@given(greetings, st.booleans())
def test_greetings_come_back(greeting, serialised):
    assert wire.greeting_from_records(carried(wire.greeting_to_records(greeting), serialised=serialised)) == greeting


@settings(max_examples=60)
@given(requests(), st.booleans())
def test_requests_come_back(request, serialised):
    got = wire.request_from_records(carried(wire.request_to_records(request), serialised=serialised))
    assert got.tables.keys() == request.tables.keys()
    for name, table in request.tables.items():
        assert got.tables[name].dtype == table.dtype
        assert torch.equal(got.tables[name], table)
    for name in (f.name for f in fields(request) if f.name != "tables"):
        assert getattr(got, name) == getattr(request, name), name


@settings(max_examples=60)
@given(updates, st.booleans())
def test_updates_come_back(update, serialised):
    got = wire.update_from_records(carried(wire.update_to_records(update), serialised=serialised))
    assert (got.silo, got.event, got.catalogue_hash) == (update.silo, update.event, update.catalogue_hash)
    assert got.total.dtype == np.int32
    np.testing.assert_array_equal(got.total, update.total)


@settings(max_examples=30)
@given(requests(), st.binary(max_size=60), st.booleans())
def test_masked_requests_come_back_with_their_delivery(request, delivery, serialised):
    records = carried(wire.masked_request_to_records(request, delivery), serialised=serialised)
    got, brought = wire.masked_request_from_records(records)
    assert brought == delivery
    assert request_digest(got) == request_digest(request)


@settings(max_examples=30)
@given(masked_updates, st.booleans())
def test_masked_updates_come_back(update, serialised):
    got = wire.masked_from_records(carried(wire.masked_to_records(update), serialised=serialised))
    assert vars(got) == vars(update)


@pytest.mark.parametrize("name", ["terms", "keys", "roster", "shares", "survivors", "confirmation", "unmasking"])
def test_the_blobs_of_a_masked_round_come_back_under_their_own_name(name):
    records = wire.blob_to_records(name, b"content")
    assert wire.blob_from_records(name, records) == b"content"
    with pytest.raises(ProtocolError):
        wire.blob_from_records("confirmations", records)


def test_a_decoded_table_is_the_receivers_own():
    records = wire.request_to_records(REQUEST)
    wire.request_from_records(records).tables["subspace"][:] = 7.0
    assert wire.request_from_records(records).tables["subspace"].max() == 1.0


def test_payload_counts_tables_and_configuration():
    small = wire.payload_bytes(wire.request_to_records(replace(REQUEST, tables={})))
    table = torch.zeros(1000, 3)
    large = wire.payload_bytes(wire.request_to_records(replace(REQUEST, tables={"vectors": table})))
    assert small > 0
    assert 12_000 <= large - small < 12_400
