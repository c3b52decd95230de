"""Runs on a shop with views and buys: weights are worth something, cost nothing, and mean the same to the service."""

import pytest
from small_run import small_run

from recsys_fed.errors import ConfigurationError
from recsys_fed.federation.run_files import EMBEDDINGS
from recsys_fed.serving.settings import serving_settings

SHOP = "generated:users=2500,items=1500,interactions=20,groups=16,views=4,seed=1"
ONE = {"data": SHOP, "trainer": "spectral", "silos": 1, "secure_aggregation": "off", "epsilon": 8.0}


def test_weighing_finds_more_of_what_is_bought():
    weighed = small_run(**ONE, kinds="view=0.1,buy=1")["metrics"]["recall@20"]
    control = small_run(**ONE, kinds="view=0.1,buy=1", ignore_weights=True)["metrics"]["recall@20"]
    assert weighed > 1.15 * control, (weighed, control)


def test_equal_weights_give_the_bytes_of_none(tmp_path):
    for name, keys in {"none": {}, "equal": {"kinds": "view=0.5,buy=0.5", "hit_weight": 0.0}}.items():
        small_run(tmp_path / name, **ONE, **keys)
    assert (tmp_path / "none" / EMBEDDINGS).read_bytes() == (tmp_path / "equal" / EMBEDDINGS).read_bytes()


def test_the_service_takes_the_table_of_kinds():
    assert serving_settings({"kinds": {"view": 0.2, "buy": 0.9}}).feedback.view == 0.2
    assert (
        serving_settings({"kinds": {"view": 0.2}, "feedback": {"half-life-days": 3.0}}).feedback.half_life_days == 3
    )
    with pytest.raises(ConfigurationError, match="view once"):
        serving_settings({"kinds": {"view": 0.2}, "feedback": {"view": 0.2}})
    with pytest.raises(ConfigurationError, match="transaction"):
        serving_settings({"kinds": {"transaction": 1.0}})
