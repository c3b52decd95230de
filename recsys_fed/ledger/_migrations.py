"""Ledgers of earlier versions, brought forward: one step a schema, in one transaction under the write lock.

Entries are chained by hashes and signed, so no step may change or delete one, and the triggers that refuse it stay in
force meanwhile: a step adds tables, columns and indices, and fills only what it has added. The ledger's own number is
what says which steps are left; an older program reads the same number, and refuses.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection


def _add_agreements(op: Operations) -> None:
    """1 to 2: what the silo has agreed to after it joined, see `storage.agreements_table`."""
    op.create_table(
        "agreements",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
    )


_STEPS: tuple[Callable[[Operations], None], ...] = (_add_agreements,)


def upgrade(connection: Connection, *, schema: int) -> None:
    """Take the steps that lead on from a schema; the caller holds the write lock and notes the new number."""
    op = Operations(MigrationContext.configure(connection))
    for step in _STEPS[schema - 1 :]:
        step(op)
