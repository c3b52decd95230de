"""Agreed keys: the same on both sides, of the published algorithms, and different for everything that differs."""

import hashlib
import hmac

from recsys_fed.federation.secure_aggregation import crypto

A, B, C = (f"{i:064x}" for i in (1, 2, 3))
R1, R2 = b"\x01" * 32, b"\x02" * 32


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block, with the standard library."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_both_silos_get_the_key_of_the_published_algorithms() -> None:
    one, two = crypto.fresh_secrets(), crypto.fresh_secrets()
    ours = crypto.pair_mask_key(
        crypto.load_key(one.masking), crypto.public_key(two.masking), roster=R1, own=A, peer=B
    )
    theirs = crypto.pair_mask_key(
        crypto.load_key(two.masking), crypto.public_key(one.masking), roster=R1, own=B, peer=A
    )
    other_half = crypto.load_key(two.masking).public_key()
    shared = crypto.load_key(one.masking).exchange(other_half)
    label = b"recsys-fed secure aggregation pair\0" + bytes.fromhex(A) + bytes.fromhex(B)
    assert ours == theirs == hkdf(shared, R1, label)


def test_keys_differ_by_round_pair_direction_and_purpose() -> None:
    one, peer = crypto.fresh_secrets(), crypto.public_key(crypto.fresh_secrets().masking)
    private = crypto.load_key(one.masking)
    keys = [
        crypto.pair_mask_key(private, peer, roster=R1, own=A, peer=B),
        crypto.pair_mask_key(private, peer, roster=R2, own=A, peer=B),
        crypto.pair_mask_key(private, peer, roster=R1, own=A, peer=C),
        crypto.sealing_key(private, peer, roster=R1, sender=A, receiver=B, peer=B),
        crypto.sealing_key(private, peer, roster=R1, sender=B, receiver=A, peer=B),
        crypto.sealing_key(private, peer, roster=R2, sender=A, receiver=B, peer=B),
        crypto.self_mask_key(one.self_mask, roster=R1, silo=A),
        crypto.self_mask_key(one.self_mask, roster=R2, silo=A),
        crypto.self_mask_key(one.self_mask, roster=R1, silo=B),
    ]
    assert len(set(keys)) == len(keys)


def test_secrets_are_fresh_and_have_no_text() -> None:
    one, two = crypto.fresh_secrets(), crypto.fresh_secrets()
    drawn = {one.sealing, one.masking, one.self_mask, two.sealing, two.masking, two.self_mask}
    assert len(drawn) == 6
    assert one.masking.hex() not in repr(one)
    assert str(one.masking) not in repr(one)


def test_a_commitment_binds_seed_terms_and_silo() -> None:
    seed = bytes(32)
    plain = crypto.commitment(seed, terms=R1, silo=A)
    label = b"recsys-fed secure aggregation commitment\0"
    assert plain == hashlib.sha256(label + R1 + bytes.fromhex(A) + seed).digest()
    assert crypto.commitment(R1, terms=R1, silo=A) != plain
    assert crypto.commitment(seed, terms=R2, silo=A) != plain
    assert crypto.commitment(seed, terms=R1, silo=B) != plain
