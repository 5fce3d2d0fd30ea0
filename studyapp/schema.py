"""The tables of study.db, as migrations: what the rating page knows, and all that it knows.

Arms appear under random keys only. Which key is which arm stands in blinding.json, which no code of this package opens.
Tables are made by SQL, not by sqlite-utils' helpers: those write no CHECK, no NOT NULL and no STRICT. The tables as
they are now stand in schema_m002.py and schema_judge.py, the views in schema_views.py.
"""

import sqlite3
from collections.abc import Iterator

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from studyapp import schema_judge, schema_m001, schema_m002
from studyapp.schema_m002 import MAX_COMMENT, MAX_MESSAGE
from studyapp.schema_views import VIEWS

__all__ = ["MAX_COMMENT", "MAX_MESSAGE", "migrate", "migrations"]

migrations = Migrations("viva")


@migrations()
def m001_first_tables(db: Database) -> None:
    """Study, raters, ratings, and the view that the report reads."""
    _run(db, schema_m001.STUDY + schema_m001.RATERS + schema_m001.RATINGS)


@migrations()
def m002_live_and_side_by_side(db: Database) -> None:
    """All modes, invitations, leases, known answers, the owner's log, withdrawal, and views for all of it."""
    for step in (*schema_m002.STEPS, VIEWS):
        _run(db, step)


@migrations()
def m003_model_judges(db: Database) -> None:
    """Model judges, every reply of theirs, and the views that the report reads."""
    _run(db, schema_judge.JUDGES)


def migrate(db: Database) -> None:
    """Bring a database to the newest schema; a step that fails leaves the steps before it in place."""
    migrations.apply(db)


def _run(db: Database, script: str) -> None:
    # not executescript: it commits whatever transaction is open, and a migration has to be whole or not at all
    for statement in _statements(script):
        db.conn.execute(statement)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; a trigger's inner semicolons do not end one."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement) and _speaks(statement):
            yield statement
            statement = ""
    assert not _speaks(statement), statement


def _speaks(statement: str) -> bool:
    """Whether there is more than comments and blank lines."""
    return any(line.strip() and not line.strip().startswith("--") for line in statement.splitlines())
