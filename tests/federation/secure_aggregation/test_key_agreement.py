"""Agreed keys: the same on both sides, of the published algorithms, and different for everything that differs."""

import hashlib
import hmac

from recsys_fed.federation.secure_aggregation import agreement

A, B, C = (f"{i:064x}" for i in (1, 2, 3))
R1, R2 = b"\x01" * 32, b"\x02" * 32


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block, with the standard library."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def test_both_silos_get_the_key_of_the_published_algorithms() -> None:
    one, two = agreement.fresh_secrets(), agreement.fresh_secrets()
    ours = agreement.pair_mask_key(
        agreement.loaded(one.masking), agreement.public_key(two.masking), roster=R1, own=A, peer=B
    )
    theirs = agreement.pair_mask_key(
        agreement.loaded(two.masking), agreement.public_key(one.masking), roster=R1, own=B, peer=A
    )
    other_half = agreement.loaded(two.masking).public_key()
    shared = agreement.loaded(one.masking).exchange(other_half)
    label = b"recsys-fed secure aggregation pair\0" + bytes.fromhex(A) + bytes.fromhex(B)
    assert ours == theirs == hkdf(shared, R1, label)


def test_keys_differ_by_round_pair_direction_and_purpose() -> None:
    one, peer = agreement.fresh_secrets(), agreement.public_key(agreement.fresh_secrets().masking)
    private = agreement.loaded(one.masking)
    keys = [
        agreement.pair_mask_key(private, peer, roster=R1, own=A, peer=B),
        agreement.pair_mask_key(private, peer, roster=R2, own=A, peer=B),
        agreement.pair_mask_key(private, peer, roster=R1, own=A, peer=C),
        agreement.sealing_key(private, peer, roster=R1, sender=A, receiver=B, peer=B),
        agreement.sealing_key(private, peer, roster=R1, sender=B, receiver=A, peer=B),
        agreement.sealing_key(private, peer, roster=R2, sender=A, receiver=B, peer=B),
        agreement.self_mask_key(one.self_mask, roster=R1, silo=A),
        agreement.self_mask_key(one.self_mask, roster=R2, silo=A),
        agreement.self_mask_key(one.self_mask, roster=R1, silo=B),
    ]
    assert len(set(keys)) == len(keys)


def test_secrets_are_fresh_and_have_no_text() -> None:
    one, two = agreement.fresh_secrets(), agreement.fresh_secrets()
    drawn = {one.sealing, one.masking, one.self_mask, two.sealing, two.masking, two.self_mask}
    assert len(drawn) == 6
    assert one.masking.hex() not in repr(one)
    assert str(one.masking) not in repr(one)


def test_a_commitment_binds_seed_terms_and_silo() -> None:
    seed = bytes(32)
    plain = agreement.commitment(seed, terms=R1, silo=A)
    label = b"recsys-fed secure aggregation commitment\0"
    assert plain == hashlib.sha256(label + R1 + bytes.fromhex(A) + seed).digest()
    assert agreement.commitment(R1, terms=R1, silo=A) != plain
    assert agreement.commitment(seed, terms=R2, silo=A) != plain
    assert agreement.commitment(seed, terms=R1, silo=B) != plain
