"""Both databases: what is tested at `url` is tested on SQLite and on a real PostgreSQL server."""

import pytest
from postgres_server import new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """Where a ledger may be made."""
    return str(tmp_path / "ledger.sqlite") if request.param == "sqlite" else new_database()
