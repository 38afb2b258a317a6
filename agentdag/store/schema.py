"""The database file: what its tables hold, how it comes to be, and what is refused.

A file that is not ours, or that a newer agentdag has written, is left as it is.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from agentdag._version import __version__
from agentdag.errors import StoreError

FILE = "journal.sqlite"
APPLICATION_ID = 0x61676467
"""`agdg`: how the file says whose it is."""
BUSY_S = 30.0
"""How long another program may lock the database before it counts as out of reach."""
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE texts (digest TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        pipeline TEXT NOT NULL,
        batch TEXT,
        row INTEGER,
        time REAL NOT NULL,
        body TEXT NOT NULL,
        hash TEXT NOT NULL
    ) STRICT;
    CREATE INDEX runs_of_pipeline ON runs (pipeline, number);
    CREATE INDEX runs_of_batch ON runs (batch, row) WHERE batch IS NOT NULL;
    CREATE TABLE entries (
        number INTEGER PRIMARY KEY,
        run TEXT NOT NULL,
        seq INTEGER NOT NULL,
        life INTEGER NOT NULL,
        type TEXT NOT NULL,
        node TEXT,
        time REAL NOT NULL,
        status TEXT,
        latency_s REAL,
        attempts INTEGER,
        input_tokens INTEGER,
        output_tokens INTEGER,
        cost TEXT,
        past TEXT,
        fingerprint TEXT,
        asked TEXT,
        body TEXT NOT NULL,
        hash TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX entries_of_run ON entries (run, seq);
    CREATE INDEX entries_past ON entries
        (past, number, node, status, latency_s, attempts, input_tokens, output_tokens, cost) WHERE past IS NOT NULL;
    CREATE INDEX entries_made ON entries (fingerprint, number) WHERE fingerprint IS NOT NULL;
    """,
)
"""Each takes a file from one schema to the next; `user_version` counts those that were applied."""


def digest(values: Sequence[Any]) -> str:
    """The hash that stands in each row, over everything else in it."""
    return blake2b(
        "\x1f".join([str(value) for value in values]).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


def sealed(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """*values* of a row, and their hash."""
    return *values, digest(values)


def open_database(folder: Path, *, create: bool, migrations: Sequence[str] = MIGRATIONS) -> sqlite3.Connection:
    """The database in *folder*, of the present schema; raises StoreError where it cannot be had, and touches nothing.

    An older one is copied beside before it is changed.
    """
    path = folder / FILE
    try:
        if create:
            _make(folder, path)
        elif not path.is_file():
            raise StoreError(
                f"there is no store in {folder}", hint="nothing has been run there yet, or give --store DIR"
            )
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"the store {folder} cannot be opened: {_why(error)}", hint=HINT) from error
    try:
        _check(connection, path, migrations)
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(f"{path} cannot be used: {_why(error)}", hint=f"it is left as it is; {HINT}") from error
    except BaseException:
        connection.close()
        raise
    return connection


HINT = "give another folder with --store DIR, or run with --no-store"


def _make(folder: Path, path: Path) -> None:
    """An empty file that only its owner may read, in a folder that no repository takes in."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True)
        (folder / ".gitignore").write_text("*\n")
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    elif not os.access(path, os.W_OK):
        raise PermissionError(f"{path} may not be written")


def _check(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    if path.stat().st_size:
        said = connection.execute("PRAGMA application_id").fetchone()[0]
        if said != APPLICATION_ID and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            raise StoreError(f"{path} is no journal of agentdag", hint=f"it is left as it is; {HINT}")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        by = connection.execute("SELECT value FROM about WHERE key = 'agentdag'").fetchone()
        raise StoreError(
            f"{path} has schema {version}, written by agentdag {by[0] if by else 'of a later version'}; "
            f"this is agentdag {__version__} with schema {len(migrations)}",
            hint=f"use that version, or a later one; {HINT}",
        )
    if version < len(migrations):
        _migrate(connection, path, migrations)


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Apply what is missing, in one transaction; another process may have been quicker."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if 0 < version < len(migrations):
            _back_up(path, version)
        for script in migrations[version:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("INSERT OR REPLACE INTO about VALUES ('agentdag', ?)", (__version__,))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _back_up(path: Path, version: int) -> None:
    """A copy of the file as it is, to which the older agentdag can return."""
    copy = path.with_name(f"{path.stem}.schema-{version}.sqlite")
    try:
        source = sqlite3.connect(path)
        target = sqlite3.connect(copy)
        copy.chmod(0o600)
        with source, target:
            source.backup(target)
        source.close()
        target.close()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path} is not brought to the present schema: {_why(error)}", hint=HINT) from error


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
