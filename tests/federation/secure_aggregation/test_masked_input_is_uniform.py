"""What a single silo sends looks like uniform bytes, whatever it holds, and never repeats."""

import numpy as np
import pytest
from masked_round import Round, identities, terms_of
from scipy import stats

from recsys_fed.federation.secure_aggregation import crypto, envelope
from recsys_fed.federation.secure_aggregation.encoding import unpack

ENTRIES, RUNS, BITS = 4096, 24, 33


def masked_words(run: int) -> np.ndarray:
    """What silo 0 sends for a vector of zeros, which any structure of the masks would show through."""
    keys = identities(3)
    terms = terms_of(keys, entries=ENTRIES, bits=BITS, round=run)
    round_ = Round(keys, terms)
    round_.keys_step()
    round_.shares_step()
    round_.input_step(np.zeros((3, ENTRIES), dtype=np.int64))
    phase, most = envelope.Phase.INPUT, 10**6
    body = envelope.open_envelope(round_.sent["input"][0], terms, phase, most=most).body
    return unpack(body, entries=ENTRIES, bits=BITS)


def p_values(runs: list[np.ndarray]) -> list[float]:
    """Chi-square of all whole bytes, of the lowest bits as such, and of pairs of neighbouring lowest bits."""
    words = np.concatenate(runs).astype(np.uint64)
    tests = [
        stats.chisquare(np.bincount((words >> np.uint64(s)).astype(np.uint8), minlength=256)).pvalue
        for s in (0, 8, 16, 24)
    ]
    low = (words & np.uint64(1)).astype(int)
    tests.append(stats.chisquare(np.bincount(low, minlength=2)).pvalue)
    tests.append(stats.chisquare(np.bincount(low[:-1] * 2 + low[1:], minlength=4)).pvalue)
    tests.append(stats.chisquare(np.bincount((words >> np.uint64(32)).astype(int), minlength=2)).pvalue)
    return tests


def test_bytes_and_low_bits_are_uniform() -> None:
    assert min(p_values([masked_words(run) for run in range(RUNS)])) > 1e-6


def test_the_next_round_has_nothing_in_common_with_this_one() -> None:
    first, second = masked_words(0), masked_words(0)
    equal = np.mean(first.astype(np.uint8) == second.astype(np.uint8))
    assert abs(equal - 1 / 256) < 6 * (1 / 256 / ENTRIES) ** 0.5
    difference = (first - second) & np.uint64(2**BITS - 1)
    assert min(p_values([difference])) > 1e-6


@pytest.mark.parametrize("weakness", ["no mask", "half of the bits", "a short period"])
def test_the_test_finds_weak_masks(monkeypatch: pytest.MonkeyPatch, weakness: str) -> None:
    genuine = crypto.apply_mask

    def weak(words: np.ndarray, key: bytes, *, add: bool) -> None:
        if weakness == "half of the bits":
            masked = words.copy()
            genuine(masked, key, add=add)
            words += masked & np.array(0xFFFF0000, dtype=words.dtype)
        elif weakness == "a short period":
            masked = np.zeros(16, dtype=words.dtype)
            genuine(masked, key, add=add)
            words += np.resize(masked, len(words))

    monkeypatch.setattr("recsys_fed.federation.secure_aggregation.silo.apply_mask", weak)
    assert min(p_values([masked_words(run) for run in range(RUNS)])) < 1e-6
