"""What is written of runs, and by whom: one thread, one transaction for all that waits.

Whoever hands in a row is told once it is safe: committed, or, where the database cannot be written, in a file beside
it. After that nothing more is to be begun; `broken` says why.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from agentdag.errors import StoreError
from agentdag.store.schema import digest, open_database
from agentdag.store.spill import Row, spill, take_in

FULL_S = 10.0
"""How long a full disk is tried again."""
AGAIN_EVERY_S = 0.5
GROUPS = (256, 32, 4, 1)
"""Rows in one statement: few sizes, so that each is compiled once."""
COLUMNS = {
    "texts": ("digest", "body"),
    "runs": ("id", "pipeline", "batch", "row", "time", "body", "hash"),
    "entries": (
        *("run", "seq", "life", "type", "node", "time", "status", "latency_s", "attempts", "input_tokens"),
        *("output_tokens", "cost", "past", "fingerprint", "asked", "body", "hash"),
    ),
}
_HASHED = frozenset({"runs", "entries"})
_FULL = 13
"""SQLite's own number of what may get better while one waits."""


@dataclass(slots=True)
class _Parcel:
    """Rows that are made when it is their turn, and who is told when they are safe."""

    rows: Callable[[], Sequence[Row]]
    then: Callable[[], None] | None


class Journal:
    """The one writer of the store in *folder*. *name* tells whose rows they are; *post* calls on the loop's thread.

    `on_broken` is called once, on that thread, when the database cannot be written any more.
    """

    def __init__(self, folder: Path, name: str, post: Callable[[Callable[[], None]], object]) -> None:
        self.folder = folder
        self.broken: StoreError | None = None
        self.on_broken: Callable[[], None] = lambda: None
        self.spilled: Path | None = None
        """Where the rows went that the database did not take."""
        self._name = name
        self._post = post
        self._queue: SimpleQueue[_Parcel | None] = SimpleQueue()
        self._connection = open_database(folder, create=True)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def append(self, rows: Callable[[], Sequence[Row]], then: Callable[[], None] | None = None) -> None:
        """Write what *rows* gives; *then* is called once it, and all before it, is safe."""
        self._queue.put(_Parcel(rows, then))

    def close(self) -> None:
        """Return when everything is written."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _write(self) -> None:
        open_ = True
        while open_:
            parcels: list[_Parcel] = []
            parcel: _Parcel | None = self._queue.get()
            while parcel is not None:
                parcels.append(parcel)
                try:
                    parcel = self._queue.get_nowait()
                except Empty:
                    break
            else:
                open_ = False
            self._commit(self._made(parcels))
            waiting = [parcel.then for parcel in parcels if parcel.then is not None]
            if waiting:
                self._post(partial(_tell, waiting))

    def _made(self, parcels: Sequence[_Parcel]) -> list[Row]:
        rows: list[Row] = []
        for parcel in parcels:
            try:
                rows += parcel.rows()
            except Exception as error:  # noqa: BLE001 - this thread must not die in silence
                self._break(error)
        return rows

    def _commit(self, rows: Sequence[Row]) -> None:
        until = time.monotonic() + FULL_S
        while rows and self.broken is None:
            try:
                insert(self._connection, rows)
            except Exception as error:  # noqa: BLE001 - likewise: whatever it is, what was paid for is kept
                full = getattr(error, "sqlite_errorcode", 0) & 0xFF == _FULL
                if full and time.monotonic() < until:
                    time.sleep(AGAIN_EVERY_S)
                else:
                    self._break(error)
            else:
                return
        if rows:
            self.spilled = spill(self.folder, self._name, rows, self.spilled)

    def _break(self, error: Exception) -> None:
        if self.broken is None:
            self.broken = StoreError(f"the store {self.folder} could not be written: {error}")
            self._post(self._tell_broken)

    def _tell_broken(self) -> None:
        self.on_broken()


def insert(connection: sqlite3.Connection, rows: Sequence[Row], *, again: bool = False) -> None:
    """One transaction, or nothing. With *again*, rows that are there already are left as they are."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        start = 0
        while start < len(rows):
            table = rows[start].table
            end = start
            while end < len(rows) and end - start < GROUPS[0] and rows[end].table == table:
                end += 1
            end = start + next(size for size in GROUPS if size <= end - start)
            _insert_group(connection, table, [row.values for row in rows[start:end]], again=again)
            start = end
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a fresh open shows what holds
            connection.execute("ROLLBACK")
        raise


def _insert_group(connection: sqlite3.Connection, table: str, group: Sequence[tuple[Any, ...]], *, again: bool) -> None:
    """One statement for all: each gives up the interpreter's lock, and may wait long to have it back."""
    columns = COLUMNS[table]
    hashed = table in _HASHED
    values = [value for row in group for value in ((*row, digest(row)) if hashed else row)]
    marks = f"({','.join('?' * len(columns))})"
    how = "OR IGNORE " if again or not hashed else ""
    connection.execute(
        f"INSERT {how}INTO {table} ({','.join(columns)}) VALUES {','.join([marks] * len(group))}",  # noqa: S608
        values,
    )


def take_in_spills(connection: sqlite3.Connection, folder: Path) -> None:
    """What earlier processes could not write goes where it belongs."""
    take_in(folder, lambda rows: insert(connection, rows, again=True))


def intact(values: Iterable[Any], told: str) -> bool:
    """Whether a row still is what was written."""
    return digest(tuple(values)) == told


def _tell(waiting: Sequence[Callable[[], None]]) -> None:
    for then in waiting:
        then()
