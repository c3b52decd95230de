"""A silo's key: read by its owner only, never overwritten, never shown, and a signature serves one purpose."""

import logging
import pickle
import stat
import traceback

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from recsys_fed.errors import ConfigurationError, DataNotFoundError, KeyFileError
from recsys_fed.signing import SigningKey, parse_public_key, verify_signature


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


def private_texts(key: SigningKey) -> list[str]:
    """The private half in the spellings that a log might hold."""
    raw = key.private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return [raw.hex(), str(raw)[2:-1], pem.splitlines()[1]]


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_key_comes_back_from_its_file(passphrase, key, tmp_path):
    path = tmp_path / "keys" / "silo.key"
    key.save(path, passphrase=passphrase)
    again = SigningKey.load(path, passphrase=passphrase)
    assert again.public_key == key.public_key
    assert again.sign("a purpose", b"text") == key.sign("a purpose", b"text")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in path.read_bytes()) == (passphrase is not None)


def test_the_file_is_the_owners_whatever_the_mask(key, tmp_path, monkeypatch):
    import os

    before = os.umask(0)
    try:
        key.save(tmp_path / "silo.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "silo.key").stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(key, tmp_path):
    path = tmp_path / "silo.key"
    key.save(path)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"There is a key at .* already\. Use it, or move it away"):
        SigningKey.generate().save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("given", [None, "", "wrong"])
def test_another_passphrase_opens_nothing(given, key, tmp_path):
    key.save(tmp_path / "silo.key", passphrase="right")
    with pytest.raises(KeyFileError, match="passphrase that opens it"):
        SigningKey.load(tmp_path / "silo.key", passphrase=given)


def test_what_is_no_key_file_is_refused(key, tmp_path):
    with pytest.raises(DataNotFoundError, match="Cannot find"):
        SigningKey.load(tmp_path / "missing.key")
    key.save(tmp_path / "silo.key")
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"no key", (tmp_path / "silo.key").read_bytes()[:60], other):
        (tmp_path / "bad.key").write_bytes(content)
        with pytest.raises(KeyFileError, match=r"bad\.key"):
            SigningKey.load(tmp_path / "bad.key")
    with pytest.raises(KeyFileError, match="passphrase"):
        SigningKey.load(tmp_path / "silo.key", passphrase="there is none")
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="Cannot write a key"):
        key.save(tmp_path / "file" / "silo.key")


def test_no_private_byte_is_shown(key, tmp_path, caplog):
    key.save(tmp_path / "silo.key", passphrase="right")
    shown = [repr(key), str(key), f"{key}", f"{vars(key)}", key.public_key, key.sign("a purpose", b"text")]
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("silo").error("%s %r", key, key)
        try:
            SigningKey.load(tmp_path / "silo.key", passphrase="wrong")
        except KeyFileError:
            shown.append(traceback.format_exc())
    shown.append(caplog.text)
    for text in shown:
        assert not any(private in text for private in private_texts(key))
        assert "right" not in text
    assert private_texts(key)[0] == key.private.private_bytes_raw().hex(), "the search would find it"
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_signature_serves_one_purpose_one_content_and_one_key(key):
    signature = key.sign("ledger entry", b"content")
    assert verify_signature(key.public_key, "ledger entry", b"content", signature)
    for purpose, content in (
        ("run certificate", b"content"),
        ("ledger entry", b"another content"),
        ("ledger", b" entry\0content"),
        ("ledger entry\0content", b""),
        ("", b"ledger entry\0content"),
    ):
        assert not verify_signature(key.public_key, purpose, content, signature)
    assert not verify_signature(SigningKey.generate().public_key, "ledger entry", b"content", signature)


@pytest.mark.parametrize("bad", ["", "00", "zz" * 64, "00" * 64, "é" * 128, " " * 128])
def test_a_bad_signature_is_false_and_no_exception(bad, key):
    assert not verify_signature(key.public_key, "ledger entry", b"content", bad)


@pytest.mark.parametrize("bad", ["", "00", "zz" * 32, "ff" * 32, "00" * 32, "é" * 64])
def test_a_bad_public_key_fits_nothing(bad, key):
    assert not verify_signature(bad, "ledger entry", b"content", key.sign("ledger entry", b"content"))


def test_every_changed_bit_of_a_signature_is_noticed(key):
    signature = bytes.fromhex(key.sign("ledger entry", b"content"))
    for bit in range(8 * len(signature)):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        assert not verify_signature(key.public_key, "ledger entry", b"content", changed.hex())


def test_capital_letters_are_another_spelling_and_refused(key):
    """One signature, one text: otherwise an entry could be changed without breaking it."""
    signature = key.sign("ledger entry", b"content")
    assert not verify_signature(key.public_key, "ledger entry", b"content", signature.upper())


def test_a_public_key_that_a_person_gives(key):
    assert parse_public_key(f" {key.public_key.upper()}\n") == key.public_key
    for bad in ("", key.public_key[:-1], key.public_key + "0", "silo.key"):
        with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
            parse_public_key(bad)


def test_two_keys_differ():
    assert len({SigningKey.generate().public_key for _ in range(5)}) == 5
    raw = Ed25519PrivateKey.from_private_bytes(bytes(32))
    assert SigningKey(raw).public_key == "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
