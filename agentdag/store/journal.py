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


@dataclass(slots=True)
class _Load:
    """Rows as they are to be written, and all who are told then."""

    rows: list[Row]
    waiting: list[Callable[[], None]]


class Journal:
    """The one writer of the store in *folder*. *name* tells whose rows they are.

    *post* calls on the loop's thread from any other; *soon* calls there when what is ready has had its turn.
    `on_broken` is called once, on that thread, when the database cannot be written any more.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        post: Callable[[Callable[[], None]], object],
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.folder = folder
        self.broken: StoreError | None = None
        self.on_broken: Callable[[], None] = lambda: None
        self.spilled: Path | None = None
        """Where the rows went that the database did not take."""
        self._name = name
        self._post = post
        self._soon = soon or post
        self._pending: list[_Parcel] = []
        self._queue: SimpleQueue[_Load | None] = SimpleQueue()
        self._connection = open_database(folder, create=True)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def append(self, rows: Callable[[], Sequence[Row]], then: Callable[[], None] | None = None) -> None:
        """Write what *rows* gives; *then* is called once it, and all before it, is safe."""
        self._pending.append(_Parcel(rows, then))
        if len(self._pending) == 1:
            self._soon(self._hand_over)

    def close(self) -> None:
        """Return when everything is written."""
        self._hand_over()
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _hand_over(self) -> None:
        """Make the rows here: two threads that both want the interpreter's lock wait for each other."""
        parcels, self._pending = self._pending, []
        if parcels:
            waiting = [parcel.then for parcel in parcels if parcel.then is not None]
            self._queue.put(_Load(self._made(parcels), waiting))

    def _made(self, parcels: Sequence[_Parcel]) -> list[Row]:
        rows: list[Row] = []
        for parcel in parcels:
            try:
                rows += [_hashed(row) for row in parcel.rows()]
            except Exception as error:  # noqa: BLE001 - nobody is to wait for ever for what cannot be written
                self._break(error)
        return rows

    def _write(self) -> None:
        open_ = True
        while open_:
            rows: list[Row] = []
            waiting: list[Callable[[], None]] = []
            load = self._queue.get()
            while load is not None:
                rows += load.rows
                waiting += load.waiting
                try:
                    load = self._queue.get_nowait()
                except Empty:
                    break
            else:
                open_ = False
            self._commit(rows)
            if waiting:
                self._post(partial(_tell, waiting))

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
    values = [value for row in group for value in row]
    marks = f"({','.join('?' * len(columns))})"
    how = "OR IGNORE " if again or table not in _HASHED else ""
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


def _hashed(row: Row) -> Row:
    return Row(row.table, (*row.values, digest(row.values))) if row.table in _HASHED else row


def _tell(waiting: Sequence[Callable[[], None]]) -> None:
    for then in waiting:
        then()
