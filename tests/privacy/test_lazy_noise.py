"""Noise that is drawn when a row is read has the law of noise that is drawn at every step."""

import numpy as np
import pytest
import torch
from scipy import stats

from recsys_fed.errors import ConfigurationError
from recsys_fed.privacy.integer_mechanism import IntegerMechanism, NoisySums
from recsys_fed.privacy.noise import SeededNoise

ROWS, DIM, STEPS = 600, 20, 6
MECHANISM = IntegerMechanism(noise_multiplier=2.0, l2_clip_norm=1.0, grid_step=2.0**-8, entries=ROWS * DIM)
DEVIATION = MECHANISM.standard_deviation
# Rows that are never touched, touched once, at every other step, and always.
CLASSES = {"never": [], "once": [3], "sometimes": [0, 2, 4], "always": list(range(STEPS))}
QUARTER = ROWS // len(CLASSES)


def table(seed, mechanism=MECHANISM):
    return NoisySums((ROWS, DIM), mechanism=mechanism, noise=SeededNoise(seed))


def rows_of(step):
    chosen = [place for place, steps in enumerate(CLASSES.values()) if step in steps]
    return torch.cat([torch.arange(QUARTER * place, QUARTER * (place + 1)) for place in chosen])


def lazily(seed):
    """Steps without users; what was read at each of them, and the table at the end."""
    sums, seen = table(seed), []
    for step in range(STEPS):
        rows = rows_of(step)
        seen.append((rows, sums.read(rows).clone()))
        sums.add([(0, torch.zeros(len(rows), DIM, dtype=torch.float64))], rows=rows)
    return seen, sums.finished().numpy()


def eagerly(seed):
    sums, seen = table(seed), []
    for step in range(STEPS):
        rows = rows_of(step)
        seen.append((rows, sums.read(rows).clone()))
        sums.add([(0, torch.zeros(ROWS, DIM, dtype=torch.float64))])
    return seen, sums.finished().numpy()


@pytest.mark.parametrize("way", [lazily, eagerly])
@pytest.mark.parametrize("place", range(len(CLASSES)), ids=list(CLASSES))
def test_every_row_ends_with_the_noise_of_all_steps(way, place):
    noise = np.ravel(way(place)[1][QUARTER * place : QUARTER * (place + 1)])
    scale = DEVIATION * STEPS**0.5
    # Continuous, as a step of the grid is a thousandth of the scale.
    assert stats.kstest(noise, stats.norm(scale=scale).cdf).pvalue > 1e-3
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(noise, stats.norm(scale=scale * wrong).cdf).pvalue < 1e-9


def variance_pvalue(noise, scale):
    """Two-sided: the squares of n normal entries over scale^2 add up to a chi-square of n degrees of freedom."""
    noise = np.ravel(noise).astype(float)
    upper = stats.chi2(len(noise)).sf(np.sum((noise / scale) ** 2))
    return 2 * min(upper, 1 - upper)


@pytest.mark.parametrize("way", [lazily, eagerly])
@pytest.mark.parametrize("place", range(len(CLASSES)), ids=list(CLASSES))
def test_the_scale_is_right_to_a_few_percent(way, place):
    """Where a Kolmogorov-Smirnov test of a table still accepts: 60,000 entries, their scale known to .3%."""
    noise = np.stack([way(seed)[1][QUARTER * place : QUARTER * (place + 1)] for seed in range(100, 120)])
    scale = DEVIATION * STEPS**0.5
    assert variance_pvalue(noise, scale) > 1e-3
    for wrong in (0.97, 1.03, STEPS**-0.05):
        assert variance_pvalue(noise, wrong * scale) < 1e-9


@pytest.mark.parametrize("way", [lazily, eagerly])
def test_what_is_read_in_between_has_the_right_scale_to_a_few_percent(way):
    tables = [way(seed)[0] for seed in range(200, 220)]
    for step in range(1, STEPS):
        noise = np.stack([seen[step][1].numpy()[-QUARTER:] for seen in tables])
        assert variance_pvalue(noise, DEVIATION * step**0.5) > 1e-4
        for wrong in (0.97, 1.03):
            assert variance_pvalue(noise, wrong * DEVIATION * step**0.5) < 1e-9


@pytest.mark.parametrize("place", range(len(CLASSES)), ids=list(CLASSES))
def test_lazy_and_eager_tables_have_one_law(place):
    lazy, eager = (np.ravel(way(7 + place)[1][QUARTER * place : QUARTER * (place + 1)]) for way in (lazily, eagerly))
    assert stats.ks_2samp(lazy, eager).pvalue > 1e-3
    assert stats.ks_2samp(1.5 * lazy, eager).pvalue < 1e-9


@pytest.mark.parametrize("way", [lazily, eagerly])
def test_what_is_read_has_the_noise_of_the_steps_before_and_grows_by_independent_steps(way):
    seen, final = way(3)
    read = np.stack([values.numpy()[-QUARTER:].ravel() for _, values in seen] + [final[-QUARTER:].ravel()])
    assert not read[0].any()
    found = np.cov(read[1:]) / DEVIATION**2
    # Of sums of independent steps: cov(G_s, G_t) = min(s, t).
    expected = np.minimum.outer(np.arange(1, STEPS + 1), np.arange(1, STEPS + 1))
    np.testing.assert_allclose(found, expected, atol=8 * STEPS / read.shape[1] ** 0.5)


def test_rows_have_noise_of_their_own():
    noise = lazily(5)[1].astype(float)
    between = np.corrcoef(noise.reshape(ROWS // 2, -1)[:, :40].T)
    assert np.abs(between - np.eye(len(between))).max() < 6 / (ROWS / 2) ** 0.5


@pytest.mark.parametrize("lazy", [True, False])
def test_sums_are_added_under_the_noise(lazy):
    quiet = IntegerMechanism(noise_multiplier=0.0, l2_clip_norm=1.0, grid_step=2.0**-8, entries=ROWS * DIM)
    sums, rows = table(0, quiet), torch.tensor([1, 5, 9])
    for step in range(3):
        block = torch.full((3, DIM), 0.5 * (step + 1), dtype=torch.float64)
        if lazy:
            sums.add([(0, block[:2]), (2, block[2:])], rows=rows)
        else:
            whole = torch.zeros(ROWS, DIM, dtype=torch.float64)
            whole[rows] = block
            sums.add([(0, whole[:4]), (4, whole[4:])])
    expected = torch.zeros(ROWS, DIM, dtype=torch.int32)
    expected[rows] = 3 * 256
    assert torch.equal(sums.finished(), expected)
    assert torch.equal(sums.read(rows), expected[rows])


def test_rows_that_nobody_reads_cost_no_draws_before_the_end():
    class Counting(SeededNoise):
        drawn = 0

        def add_to(self, table, *, standard_deviation):
            self.drawn += table.size
            super().add_to(table, standard_deviation=standard_deviation)

    noise = Counting(0)
    sums, rows = NoisySums((ROWS, DIM), mechanism=MECHANISM, noise=noise), torch.arange(4)
    for _ in range(STEPS):
        sums.read(rows)
        sums.add([(0, torch.zeros(4, DIM, dtype=torch.float64))], rows=rows)
    assert noise.drawn == 4 * DIM * (STEPS - 1)
    sums.finished()
    assert noise.drawn == 4 * DIM * STEPS + (ROWS - 4) * DIM
    sums.finished()
    assert noise.drawn == 4 * DIM * STEPS + (ROWS - 4) * DIM


def test_a_mechanism_of_another_size_is_refused():
    with pytest.raises(ConfigurationError, match="entries"):
        NoisySums((3, 4), mechanism=MECHANISM, noise=SeededNoise(0))
