"""Users who count for less by a public rule: equal to a plain loop, bounded, refused where the meaning is another."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from by_hand import begun
from silo_data import make_histories, randomness

from recsys_fed.audit.audit import AuditSettings, audit
from recsys_fed.catalogue.items import Catalogue, PublicUsers
from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.data.readers.users import groups_rule, read_user_numbers, weights_rule
from recsys_fed.errors import ConfigurationError, DataError, ProtocolError
from recsys_fed.federation.messages import Greeting
from recsys_fed.federation.metrics_round import STAGE as METRICS
from recsys_fed.federation.plan import check_request
from recsys_fed.federation.release import SiloUsers, bounded_sum
from recsys_fed.federation.schedule import advance_by_sum, begin, request
from recsys_fed.federation.user_weights import part_settings, weighted_sum
from recsys_fed.models.histories import Signals
from recsys_fed.privacy.integer_mechanism import ARITHMETIC_ERROR, add_noise
from recsys_fed.privacy.noise import poisson_sample

N_ITEMS, N_USERS = 30, 12
IDS_OF_ITEMS = np.array([f"i{n}" for n in range(N_ITEMS)], dtype=object)
RULE, WEIGHTS = "gender:F=1,M=0.3,x=0.3", (0.3, 1.0)
BASE = FederationConfig(
    silos=1, declared_users=40, embedding_dim=3, rounds=3, epsilon=math.inf, user_weights=RULE, metrics_epsilon=0.5
)
TRAINERS = {
    "spectral": BASE,
    "in order": replace(BASE, target="next"),
    "popularity": replace(BASE, trainer="popularity", rounds=1),
    "dp-sgd": replace(BASE, trainer="dp-sgd", rounds=2),
    "dp-sgd, sampled": replace(BASE, trainer="dp-sgd", rounds=2, dp_sgd={"sampling_probability": 0.5}),
    "ratings": replace(BASE, target="rating"),
    "ratings by dp-sgd": replace(BASE, target="rating", trainer="dp-sgd", rounds=2),
}
TORCH = pytest.param(replace(BASE, trainer="torch", rounds=2), marks=pytest.mark.soak, id="torch")


def users(seed=0):
    """Histories with every signal, and what each user counts."""
    rng = np.random.default_rng(seed)
    plain = make_histories(N_USERS, N_ITEMS, seed=seed)
    n = len(plain.items)
    rank = torch.cat([torch.randperm(int(size)) for size in plain.starts.diff()]).int()
    signals = Signals(rank=rank, value=torch.from_numpy(rng.integers(1, 6, n).astype(np.float32)))
    return SiloUsers(histories=replace(plain, signals=signals), weights=rng.choice(WEIGHTS, N_USERS))


def rounds_of(config, silo):
    """Every request of a training, with the sum that the silo answers before its noise."""
    schedule = begun(config, N_ITEMS)
    while schedule.round < len(schedule.stages):
        asked = request(schedule)
        total = bounded_sum(asked, schedule.trainer, silo, randomness=randomness(0, asked.round))
        yield asked, schedule.trainer, total
        noise = randomness(0, asked.round).noise
        integers = add_noise(total.double().numpy(), mechanism=asked.mechanism, noise=noise)
        schedule = advance_by_sum(schedule, asked, integers, n_silos=1)


def alone(asked, trainer, silo, user):
    """What one user contributes without weights."""
    settings, _ = part_settings(asked.settings)
    settings = {**settings, "l2_clip_norm": asked.l2_clip_norm}
    return trainer.contribution(
        asked.stage, asked.tables, silo.histories.block(user, user + 1), settings=settings
    ).double()


@pytest.mark.parametrize("config", [*(pytest.param(one, id=name) for name, one in TRAINERS.items()), TORCH])
def test_sums_are_those_of_a_plain_loop_and_nobody_adds_more_than_the_weight(config):
    silo, stages = users(), set()
    for asked, trainer, total in rounds_of(config, silo):
        if asked.stage == METRICS:
            assert part_settings(asked.settings)[1] == ()
            continue
        stages.add(asked.stage)
        sampled = range(N_USERS)
        if asked.sampling_probability < 1:
            streams = randomness(0, asked.round).sampling
            sampled = np.flatnonzero(poisson_sample(N_USERS, asked.sampling_probability, streams).numpy())
        expected = torch.zeros(asked.shape, dtype=torch.float64)
        for user in sampled:
            term = silo.weights[user] * alone(asked, trainer, silo, user)
            assert term.norm() <= silo.weights[user] * asked.l2_clip_norm * (1 + ARITHMETIC_ERROR)
            expected += term
        torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5 * asked.l2_clip_norm)
    assert stages


@pytest.mark.parametrize("name", ["spectral", "dp-sgd", "ratings"])
def test_one_user_more_changes_a_sum_by_at_most_what_the_user_counts(name):
    silo = users()
    for asked, trainer, total in rounds_of(TRAINERS[name], silo):
        if asked.stage == METRICS:
            continue
        for user in (0, 7):
            kept = torch.arange(N_USERS) != user
            without = SiloUsers(histories=silo.histories.subset(kept), weights=silo.weights[kept.numpy()])
            other = bounded_sum(asked, trainer, without, randomness=randomness(0, asked.round))
            bound = silo.weights[user] * asked.l2_clip_norm * (1 + ARITHMETIC_ERROR)
            assert (total.double() - other.double()).norm() <= bound


def test_one_weight_for_all_scales_the_sum_and_a_weight_of_one_changes_no_bit():
    silo = users()
    for asked, trainer, total in rounds_of(replace(TRAINERS["spectral"], user_weights=""), silo):
        if asked.stage == METRICS:
            continue
        for weight in (1.0, 0.25):
            weighed = replace(asked, settings={**asked.settings, "user-weights.gender.F": weight})
            same = replace(silo, weights=np.full(N_USERS, weight))
            found = bounded_sum(weighed, trainer, same, randomness=randomness(0, asked.round))
            assert torch.equal(found, weight * total.double())


def test_a_silo_that_did_not_look_them_up_answers_nothing():
    silo = users()
    for wrong in (None, np.ones(3), np.full(N_USERS, 0.5)):
        with pytest.raises(ConfigurationError, match="counts by user-weights"):
            weighted_sum(lambda _: torch.zeros(1), silo.histories, weights=WEIGHTS, of_users=wrong)


def test_a_silo_answers_the_rule_that_it_agreed_to_alone():
    catalogue = Catalogue(item_ids=IDS_OF_ITEMS)
    greeting = Greeting(silo="silo-0", catalogue_hash=catalogue.content_hash, n_items=N_ITEMS)
    schedule = begin(BASE, greeting, catalogue)
    asked = request(schedule)
    check_request(asked, BASE, catalogue)
    for other in ("", "gender:F=1,M=0.4,x=0.3", "gender:F=1,M=0.3", "age:F=1,M=0.3,x=0.3"):
        with pytest.raises(ProtocolError, match=r"agreed plan"):
            check_request(asked, replace(BASE, user_weights=other), catalogue)


def test_what_would_mean_something_else_is_refused_by_name(tmp_path):
    local = {"schedule": "local", "local_steps": 2}
    with pytest.raises(ConfigurationError, match=r"dp-sgd.schedule = synchronous"):
        begun(replace(BASE, trainer="dp-sgd", rounds=3, dp_sgd=local), N_ITEMS)
    with pytest.raises(ConfigurationError, match=r"dp-sgd.clipping = automatic"):
        begun(replace(BASE, trainer="dp-sgd", rounds=3, dp_sgd={"clipping": "adaptive"}), N_ITEMS)
    public = PublicUsers(of_item=((0,),) * N_ITEMS, consent=("public",))
    catalogue = Catalogue(item_ids=IDS_OF_ITEMS, public_users=public)
    with pytest.raises(ConfigurationError, match="public users"):
        begun(BASE, N_ITEMS, catalogue)
    with pytest.raises(ConfigurationError, match="no user-weights and no metric-groups in an audit"):
        audit(replace(BASE, epsilon=1.0), SimulationConfig(), AuditSettings(), folder=tmp_path)
    # A server that asks all the same.
    silo, schedule = users(), begun(replace(BASE, trainer="dp-sgd", user_weights="", rounds=3, dp_sgd=local), N_ITEMS)
    asked = replace(request(schedule), noise_inside=True, settings={"user-weights.gender.F": 0.5})
    with pytest.raises(ProtocolError, match="noise inside"):
        bounded_sum(asked, schedule.trainer, silo, randomness=randomness())


@pytest.mark.parametrize(
    "text",
    [
        *("gender", "gender:", ":F=1", "gender:F=0", "gender:F=1.1", "gender:F=nan", "gender:F=-1"),
        *("a:F=1,F=1", "a:F=1,", "a:=1", "a:" + ",".join(f"{n}=1" for n in range(33))),
    ],
)
def test_rules_that_are_none_are_refused(text):
    with pytest.raises(ConfigurationError, match="user-weights as ATTRIBUTE"):
        FederationConfig(user_weights=text)
    with pytest.raises(ConfigurationError, match="metric-groups as ATTRIBUTE"):
        FederationConfig(metric_groups=text)


def test_groups_have_no_weights():
    with pytest.raises(ConfigurationError, match="without weights"):
        FederationConfig(metric_groups="sex:F,M=0.5")


IDS = np.array(["u1", "7", "u3", "u9"], dtype=object)


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("users.csv", "user,gender\nu1,F\n7,M\nu3,F\n", "gender"),
        ("users.txt", "gender|user|x\nF|u1|1\nM|7.0|1\nF|u3|1\n", "gender"),
        ("users.dat", "u1::F\n7::M\nu3::F\n", "1"),
    ],
)
def test_weights_follow_from_a_table_of_users(tmp_path, name, text, column):
    (tmp_path / name).write_text(text)
    found = read_user_numbers(tmp_path / name, column, weights_rule("sex:F=1,M=0.5,other=0.25"), IDS)
    # Whoever the table lacks counts the least.
    assert found.tolist() == [1.0, 0.5, 1.0, 0.25]
    assert read_user_numbers(tmp_path / name, column, groups_rule("sex:F,M"), IDS).tolist() == [0, 1, 0, 2]


def test_bands_are_those_of_the_rule(tmp_path):
    (tmp_path / "ages.csv").write_text("user,age\nu1,17\n7,18\nu3,old\nu9,3\n")
    found = read_user_numbers(tmp_path / "ages.csv", "age", weights_rule("age:0 to 17=1,18 to 99=0.5,3=0.75"), IDS)
    assert found.tolist() == [1.0, 0.5, 0.5, 0.75]


@pytest.mark.parametrize(
    "rows", ["u9,M", "u9,", "u9", "u9,F,F", '"u9,F', ",F", "u9,F\nu9,M", "u9,\x00", "u9," + "F" * 99, "u9,12\nu9,99"]
)
@pytest.mark.parametrize("first", [True, False])
def test_no_rows_of_a_user_change_what_others_count(tmp_path, rows, first):
    others = "u1,F\n7,M\nu3,F\n"
    table, rule = tmp_path / "users.csv", weights_rule("sex:F=1,M=0.5,10 to 19=0.75")
    table.write_text("user,gender\n" + others)
    without = read_user_numbers(table, "gender", rule, IDS)
    table.write_text("user,gender\n" + (f"{rows}\n{others}" if first else f"{others}{rows}\n"))
    found = read_user_numbers(table, "gender", rule, IDS)
    assert np.array_equal(found[:3], without[:3]) and found[3] == 0.5


def test_tables_whose_form_would_follow_from_a_row_are_refused(tmp_path):
    (tmp_path / "u.user").write_text("1|F\n2|M\n")
    with pytest.raises(ConfigurationError, match="header"):
        read_user_numbers(tmp_path / "u.user", "1", weights_rule("sex:F=1"), IDS)
    (tmp_path / "users.csv").write_text("user,age\n1,2\n")
    for column, path in (("gender", "users.csv"), ("age", "nowhere.csv")):
        with pytest.raises(DataError):
            read_user_numbers(tmp_path / path, column, weights_rule("sex:F=1"), IDS)
