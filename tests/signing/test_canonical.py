"""A record has one text, and no other text is read as that record."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_fed.errors import DataFormatError
from recsys_fed.signing import canonical, parse_canonical, require_keys, sha256, text_of

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(TEXTS, VALUES, max_size=4)


@given(record=RECORDS)
def test_a_record_comes_back_and_its_text_too(record):
    text = canonical(record)
    assert canonical(parse_canonical(text)) == text
    assert json.loads(text) == record
    assert text.isascii()


@given(record=RECORDS)
def test_the_order_of_keys_does_not_matter(record):
    assert canonical(dict(reversed(record.items()))) == canonical(record)


@given(record=RECORDS, data=st.data())
def test_a_changed_byte_is_another_record_or_none(record, data):
    text = bytearray(canonical(record))
    position = data.draw(st.integers(0, len(text) - 1))
    before, text[position] = text[position], data.draw(st.integers(0, 255))
    if text[position] == before:
        return
    try:
        changed = parse_canonical(bytes(text))
    except DataFormatError:
        return
    assert canonical(changed) == bytes(text) != canonical(record)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"1", b'"a"', b"null", b'{"a": 1}', b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a":1.0e0}',
        b'{"a":1}\n', b' {"a":1}', b'{"a":"\xc3\xa9"}', b'{"a":"\\u00E9"}', b'{"a":"\\/"}', b'{"a":NaN}',
        b'{"a":Infinity}', b'{"a":-0}', b'{"a":01}', b'{"a":1e400}', b"[" * 100_000, b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_every_other_text_is_refused(text):
    with pytest.raises(DataFormatError):
        parse_canonical(text)


def test_numbers_that_json_does_not_know_are_refused():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical({"a": value})


def test_the_digest_is_that_of_the_standard():
    assert sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_keys_are_neither_missing_nor_too_many():
    assert require_keys({"a": 1}, {"a"}, "a thing") == {"a": 1}
    for record in ({}, {"a": 1, "b": 2}, [], None, "a"):
        with pytest.raises(DataFormatError, match="a thing with the keys"):
            require_keys(record, {"a"}, "a thing")
    with pytest.raises(DataFormatError, match="a to be a text, got int"):
        text_of({"a": 1}, "a")
