"""A simulation, a silo in memory and a silo on disk read the same from any table, and what the rules say."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from doors import PSEUDONYMS, READS, in_silo, in_simulation, through_all
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from table_files import json_tables, parquet_tables, sqlite_tables, text_tables
from table_oracle import expected

from recsys_fed.catalogue.items import Catalogue
from recsys_fed.config import columns_of, kinds_of
from recsys_fed.data.interactions import id_array
from recsys_fed.silo.interactions import read_silo_data
from recsys_fed.silo.on_disk import read_stored_data
from recsys_fed.silo.settings import DataSettings

# Of each of four kinds of source.
FEW, MANY = 100, 5_000
BLOCKS = st.sampled_from([1, 2, 3, 1000])
KINDS = {"text": text_tables(), "json": json_tables(), "parquet": parquet_tables()}


def agree(table, block_rows):
    """Every door gives what the oracle does."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / table.name
        table.write(path)
        note(f"{path.read_bytes() if path.is_file() else sorted(path.iterdir())}")
        options = {"columns": table.columns, "kinds": table.kinds, "form": table.form}
        given = through_all(path, **options, folder=Path(folder) / "blocks", block_rows=block_rows)
    as_the_rules_say(table, given)


def as_the_rules_say(table, given, *, by_content=False):
    histories, n_rows, rules, notes = expected(
        table.rows(), kinds=kinds_of(table.kinds), lists=table.lists, by_content=by_content
    )
    found, wanted = dict(given.histories), {PSEUDONYMS.of(user): some for user, some in histories.items()}
    if not given.ordered:
        found, wanted = ({user: set(some) for user, some in each.items()} for each in (found, wanted))
    assert found == wanted
    assert (given.n_rows, given.rules, given.notes) == (n_rows, rules, notes)


def tried(tables, examples, check=agree):
    """Run the property so many times."""
    shrinking = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)

    @settings(max_examples=examples, phases=shrinking, suppress_health_check=list(HealthCheck))
    @given(tables, BLOCKS)
    def run(table, block_rows):
        check(table, block_rows)

    run()


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_door_reads_a_file_by_the_rules(kind, examples):
    tried(KINDS[kind], examples)


def agree_on_a_query(table, block_rows):
    """Both doors of a silo over the query, and a simulation over the table itself."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / table.name
        table.write(path)
        note(f"{path.read_bytes() if path.is_file() else sorted(path.iterdir())}")
        query = {"source": "sqlite", "url": str(path), "query": "SELECT * FROM t", "kinds": kinds_of(table.kinds)}
        items = {entry.item for some in expected(table.rows(), kinds=query["kinds"])[0].values() for entry in some}
        catalogue = Catalogue(item_ids=id_array(sorted(items) or ["nothing"]))
        given = [
            in_silo(DataSettings(**query, **columns_of(table.columns), blocks=blocks, block_rows=rows), catalogue)
            for blocks, rows in (("", 1000), ("", block_rows), (str(Path(folder) / "blocks"), block_rows))
        ]
        if items:
            named = columns_of(table.columns)
            columns = ",".join([table.columns, *(f"{role}=" for role in ("value", "time") if role not in named)])
            simulated, catalogue = in_simulation(path, columns=columns, kinds=table.kinds, timed="time" in named)
            assert in_silo(DataSettings(**query, **named), catalogue) == simulated
    assert given[0] == given[1] == given[2]
    as_the_rules_say(table, given[0], by_content=True)


@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.soak)])
def test_every_door_reads_a_database_by_the_rules(examples):
    tried(sqlite_tables(), examples, agree_on_a_query)


@pytest.mark.parametrize(("time", "has"), [("at", {"rank", "time", "value"}), ("rank", {"rank", "value"})])
@pytest.mark.parametrize("rows", ["", "1,2\n", ",a,5,1\n", "1,a,5,1\n"])
def test_which_signals_there_are_follows_from_the_columns(rows, time, has, tmp_path):
    (tmp_path / "t.csv").write_text(f"user,item,stars,{time}\n{rows}")
    columns = {"user": "user", "item": "item", "value": "stars", "time": time}
    catalogue = Catalogue(item_ids=id_array(["a"]))
    for blocks in ("", str(tmp_path / "blocks")):
        data = DataSettings(path=str(tmp_path / "t.csv"), **columns, blocks=blocks)
        histories = (read_stored_data if blocks else read_silo_data)(
            data, catalogue, PSEUDONYMS, reads=READS
        ).histories()
        assert set(histories.signals if blocks else histories.signals.columns()) == has
