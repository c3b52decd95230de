"""What a silo releases: the guarantee lines of `release.answer`, one test each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_messages import REQUEST
from scipy import stats
from silo_data import held, make_histories, randomness

from recsys_fed.errors import ProtocolError
from recsys_fed.federation.release import answer, release_event
from recsys_fed.privacy.integer_mechanism import ROUNDING_SLACK
from recsys_fed.trainers.registry import make_trainer

N_ITEMS = 3_000
COUNTS = replace(REQUEST, tables={}, settings={}, shape=(N_ITEMS, 1), noise_multiplier=2.0, l2_clip_norm=1.5)
SPECTRAL = make_trainer("spectral")


def released(request, histories, streams):
    """The release in the unit of the contribution."""
    update = answer(request, SPECTRAL, held(histories), silo="silo-0", nonce="", randomness=streams)
    return update.total[:, 0] * request.grid_step


def fits(sample, scale) -> bool:
    return stats.kstest(sample, "norm", args=(0, scale)).pvalue > 1e-3


@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("n_users", [0, 50])
def test_noise_has_the_scale_that_the_event_says(share, n_users):
    request = replace(COUNTS, noise_share=share)
    histories = make_histories(n_users, N_ITEMS, density=0.02)
    exact = SPECTRAL.contribution(
        request.stage, {}, histories, settings={"l2_clip_norm": request.l2_clip_norm}
    ).numpy()[:, 0]
    noise = released(request, histories, randomness()) - exact
    scale = request.noise_multiplier * request.l2_clip_norm * share**0.5
    assert fits(noise, scale)
    assert not fits(noise, scale * 2 / 3)
    assert not fits(noise, scale * 3 / 2)


def test_silos_and_rounds_share_no_noise():
    empty = make_histories(0, N_ITEMS)
    streams = [released(COUNTS, empty, randomness(silo, turn)) for silo in (0, 1, 2) for turn in (0, 1)]
    correlations = np.corrcoef(streams)[np.triu_indices(len(streams), 1)]
    assert np.abs(correlations).max() < 4.5 / N_ITEMS**0.5


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_the_same_streams_give_the_same_bytes(probability):
    request, histories = replace(COUNTS, sampling_probability=probability), make_histories(20, N_ITEMS)
    assert np.array_equal(released(request, histories, randomness()), released(request, histories, randomness()))


def test_poisson_sampling_leaves_users_out():
    request = replace(COUNTS, noise_multiplier=0.0, sampling_probability=0.25, shape=(40, 1))
    histories = make_histories(800, 40)
    everybody = released(replace(request, sampling_probability=1.0), histories, randomness()).sum()
    shares = [released(request, histories, randomness(0, turn)).sum() / everybody for turn in range(20)]
    # 16,000 draws: a standard deviation of 0.0034 around 1/4.
    assert np.mean(shares) == pytest.approx(0.25, abs=0.02)
    assert len(set(shares)) == 20


def test_sampled_users_count_in_full():
    request = replace(COUNTS, noise_multiplier=0.0, sampling_probability=0.5, shape=(40, 1), l2_clip_norm=1.0)
    one = make_histories(1, 40, density=0.5)
    norms = {round(float(np.linalg.norm(released(request, one, randomness(0, turn)))), 3) for turn in range(30)}
    assert norms == {0.0, 1.0}


def test_an_empty_sample_releases_noise():
    request = replace(COUNTS, sampling_probability=1e-12)
    noise = released(request, make_histories(50, N_ITEMS), randomness())
    assert fits(noise, request.noise_multiplier * request.l2_clip_norm)


def test_a_contribution_of_another_shape_is_refused():
    for shape in ((N_ITEMS + 1, 1), (N_ITEMS, 2)):
        with pytest.raises(ProtocolError, match="shape"):
            released(replace(COUNTS, shape=shape), make_histories(3, N_ITEMS), randomness())


@pytest.mark.parametrize("n_users", [0, 30])
def test_local_steps_add_their_own_noise(n_users):
    """The sum of the steps' noisy sums has the noise of all of them, and at most a clip norm of each user a step."""
    steps, rate, batch = 4, 0.5, 10.0
    request = replace(
        COUNTS,
        trainer="dp-sgd",
        stage="local steps",
        tables={"head": torch.arange(1000), "vectors": torch.zeros(1000, 4)},
        settings={
            "unobserved_weight": 0.3,
            "regularization": 1.0,
            "learning_rate": rate,
            "expected_batch_size": batch,
        },
        shape=(1000, 4),
        steps=steps,
        noise_inside=True,
        grid_step=2.0**-12,
    )
    histories = make_histories(n_users, N_ITEMS, density=0.01)
    trainer = make_trainer("dp-sgd", {"schedule": "local"})
    update = answer(request, trainer, held(histories), silo="silo-0", nonce="", randomness=randomness())
    noise = (update.total * request.grid_step).ravel()
    scale = request.noise_multiplier * request.l2_clip_norm * steps**0.5
    assert noise.std() == pytest.approx(scale, rel=0.1 if n_users else 0.05)
    assert (update.total != 0).mean() > 0.99


def test_the_event_says_what_was_asked():
    update = answer(
        COUNTS, SPECTRAL, held(make_histories(3, N_ITEMS)), silo="silo-7", nonce="", randomness=randomness()
    )
    assert update.event == release_event(COUNTS, noise_source="seeded-simulation")
    assert (update.event.mechanism, update.event.slack) == ("discrete-gaussian", ROUNDING_SLACK)
    assert release_event(replace(COUNTS, steps=7), noise_source="operating-system").slack == 7 * ROUNDING_SLACK
    assert (update.silo, update.catalogue_hash) == ("silo-7", COUNTS.catalogue_hash)
    assert update.event.noise_multiplier == COUNTS.noise_multiplier
    assert update.event.round == COUNTS.round


def failing():
    """Users that cannot be read."""
    raise OSError("patient 910005 is on a disk that is gone")


@pytest.mark.parametrize("inside", [False, True])
def test_a_failure_inside_the_silo_gives_the_noise_of_nobody(inside):
    """All of the noise, the same shape, and the reason for the operator alone."""
    request = replace(COUNTS, noise_inside=inside, steps=4 if inside else 1)
    heard = []
    update = answer(request, SPECTRAL, failing, silo="s", nonce="", randomness=randomness(), on_failure=heard.append)
    assert [type(error) for error in heard] == [OSError]
    assert update.total.shape == request.shape
    scale = request.noise_multiplier * request.l2_clip_norm * (2 if inside else 1)
    noise = update.total[:, 0] * request.grid_step
    assert fits(noise, scale)
    assert not fits(noise, scale * 2 / 3)
    assert not fits(noise, scale * 3 / 2)
    assert update.event == release_event(request, noise_source="seeded-simulation")


def test_who_holds_no_private_data_hears_of_failures():
    with pytest.raises(OSError, match="910005"):
        answer(COUNTS, SPECTRAL, failing, silo="s", nonce="", randomness=randomness())
