"""Volunteers are taken out of train and test, and are the public users: nobody is on both sides, nothing is lost."""

import numpy as np

from recsys_fed.data.locate import open_dataset
from simulations.quality.volunteers import split_volunteers


def test_volunteers_and_the_others_are_all_users(tmp_path):
    (tmp_path / "all").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("train.txt", 6), ("test.txt", 2)):
        lists = (" ".join(map(str, [user, *np.sort(rng.choice(30, size, replace=False))])) for user in range(12))
        (tmp_path / "all" / name).write_text("\n".join(lists) + "\n")
    dataset = open_dataset(str(tmp_path / "all"))
    (tmp_path / "rest").mkdir()
    data = split_volunteers(dataset, 4, seed=1, folder=tmp_path / "rest")
    rest = open_dataset(data.data)
    lines = (tmp_path / "rest" / "volunteers.csv").read_text().splitlines()[1:]
    volunteers = {line.split(",")[0].removeprefix("v") for line in lines}
    assert len(volunteers) == 4
    assert set(rest.interactions.user_ids) == {str(user) for user in range(12)} - volunteers
    kept = (~dataset.is_test).sum() - (~rest.is_test).sum()
    assert kept == len(lines)
    whole = (tmp_path / "all" / "train.txt").read_text().splitlines()
    assert (tmp_path / "rest" / "train.txt").read_text().splitlines() == [
        line for line in whole if line.split()[0] not in volunteers
    ]
