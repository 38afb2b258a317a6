"""What is written of runs, and by whom: one thread, one transaction for all that waits.

Whoever hands in a row is told once it is safe: committed, or, where the database cannot be written, in a file beside
it. After that nothing more is to be begun; `broken` says why.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from agentdag.errors import StoreError
from agentdag.store.schema import digest, open_database
from agentdag.store.spill import Row, spill, take_in

FULL_S = 10.0
"""How long a full disk is tried again."""
AGAIN_EVERY_S = 0.5
AT_A_TIME = 8
"""So many rows are made, or told of, before whatever else the loop has to do; of many that wait, as large a part."""
GROUPS = tuple(2**power for power in range(8, -1, -1))
"""Rows in one statement: few sizes, so that each is compiled once."""
COLUMNS = {
    "texts": ("digest", "body"),
    "runs": ("id", "pipeline", "batch", "row", "time", "body", "hash"),
    "entries": (
        *("run", "seq", "life", "type", "node", "time", "status", "latency_s", "attempts", "input_tokens"),
        *("output_tokens", "cost", "past", "fingerprint", "asked", "body", "hash"),
    ),
}
_FULL = 13
"""SQLite's own number of what may get better while one waits."""


class _Load(NamedTuple):
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
        self._pending: deque[tuple[Callable[[], Sequence[Row]], Callable[[], None] | None]] = deque()
        """Rows that are made when it is their turn, and who is told when they are safe."""
        self._load = _Load([], [])
        """What is made of them."""
        self._safe: deque[Callable[[], None]] = deque()
        """Who is still to be told."""
        self._queue: SimpleQueue[_Load | None] = SimpleQueue()
        self._connection = open_database(folder, create=True)
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def append(self, rows: Callable[[], Sequence[Row]], then: Callable[[], None] | None = None) -> None:
        """Write what *rows* gives; *then* is called once it, and all before it, is safe."""
        self._pending.append((rows, then))
        if len(self._pending) == 1:
            self._soon(self._make_some)

    def close(self) -> None:
        """Return when everything is written."""
        self._make(len(self._pending))
        self._hand_over()
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _make_some(self) -> None:
        self._make(_some(len(self._pending)))
        if self._pending and len(self._load.rows) < GROUPS[0]:
            self._soon(self._make_some)
        else:
            self._hand_over()
            if self._pending:
                self._soon(self._make_some)

    def _make(self, count: int) -> None:
        """Make rows here: two threads that both want the interpreter's lock wait for each other."""
        rows, waiting = self._load
        for _ in range(count):
            made, then = self._pending.popleft()
            try:
                rows += made()
            except Exception as error:  # noqa: BLE001 - nobody is to wait for ever for what cannot be written
                self._break(error)
            if then is not None:
                waiting.append(then)

    def _hand_over(self) -> None:
        self._queue.put(self._load)
        self._load = _Load([], [])

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
                self._post(partial(self._tell, waiting))

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

    def _tell(self, waiting: Sequence[Callable[[], None]]) -> None:
        idle = not self._safe
        self._safe.extend(waiting)
        if idle:
            self._soon(self._tell_some)

    def _tell_some(self) -> None:
        try:
            for _ in range(_some(len(self._safe))):
                self._safe.popleft()()
        finally:
            if self._safe:
                self._soon(self._tell_some)

    def _break(self, error: Exception) -> None:
        if self.broken is None:
            self.broken = StoreError(f"the store {self.folder} could not be written: {error}")
            self._post(self._tell_broken)

    def _tell_broken(self) -> None:
        self.on_broken()


def _some(waiting: int) -> int:
    return min(waiting, max(AT_A_TIME, waiting // AT_A_TIME))


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
    how = "OR IGNORE " if again or table == "texts" else ""
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
