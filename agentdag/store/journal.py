"""What is written of runs, and by whom: one thread, one transaction for all that waits.

Whoever hands in a row is told once it is safe: committed, or, where the database cannot be written, in a file beside
it. After that nothing more is to be begun; `broken` says why.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from agentdag.errors import StoreError
from agentdag.store.lease import is_live
from agentdag.store.schema import digest, open_database

FULL_S = 10.0
"""How long a full disk is tried again."""
AGAIN_EVERY_S = 0.5
GROUPS = (256, 32, 4, 1)
"""Rows in one statement: few sizes, so that each is compiled once."""
_COLUMNS = {
    "texts": ("digest", "body"),
    "runs": ("id", "pipeline", "batch", "row", "time", "body", "hash"),
    "entries": (
        *("run", "seq", "life", "type", "node", "time", "status", "latency_s", "attempts", "input_tokens"),
        *("output_tokens", "cost", "past", "fingerprint", "asked", "body", "hash"),
    ),
}
_HASHED = frozenset({"runs", "entries"})
_FULL, _IO = 13, 10
"""SQLite's own numbers of what may get better, and of what must not be tried again on the same handle."""


class Row(NamedTuple):
    """One row of *table*, its hash still to come."""

    table: str
    values: tuple[Any, ...]


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
        self.spill: Path | None = None
        """Where the rows went that the database did not take."""
        self._name = name
        self._post = post
        self._queue: SimpleQueue[_Parcel | None] = SimpleQueue()
        self._told = threading.Event()
        self._connection = open_database(folder, create=True)
        self._take_in_spills()
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
            parcels = []
            parcel: _Parcel | None = self._queue.get()
            while True:
                if parcel is None:
                    open_ = False
                    break
                parcels.append(parcel)
                try:
                    parcel = self._queue.get_nowait()
                except Empty:
                    break
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
                self._insert(rows)
            except sqlite3.Error as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF
                self._roll_back()
                if code == _FULL and time.monotonic() < until:
                    time.sleep(AGAIN_EVERY_S)
                else:
                    self._break(error)
            else:
                return
        if rows:
            self._spill(rows)

    def _insert(self, rows: Sequence[Row], *, again: bool = False) -> None:
        """One transaction. With *again*, rows that are there already are left as they are."""
        self._connection.execute("BEGIN IMMEDIATE")
        start = 0
        while start < len(rows):
            table = rows[start].table
            end = start
            while end < len(rows) and end - start < GROUPS[0] and rows[end].table == table:
                end += 1
            end = start + next(size for size in GROUPS if size <= end - start)
            self._insert_group(table, [row.values for row in rows[start:end]], again=again)
            start = end
        self._connection.execute("COMMIT")

    def _insert_group(self, table: str, group: Sequence[tuple[Any, ...]], *, again: bool) -> None:
        """One statement for all: each gives up the interpreter's lock, and may wait long to have it back."""
        columns = _COLUMNS[table]
        hashed = table in _HASHED
        values = [value for row in group for value in ((*row, digest(row)) if hashed else row)]
        marks = f"({','.join('?' * len(columns))})"
        how = "OR IGNORE " if again or not hashed else ""
        self._connection.execute(
            f"INSERT {how}INTO {table} ({','.join(columns)}) VALUES {','.join([marks] * len(group))}",  # noqa: S608
            values,
        )

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # what could not be written could not be rolled back either: a fresh open shows what holds

    def _break(self, error: Exception) -> None:
        self.broken = self.broken or StoreError(f"the store {self.folder} could not be written: {error}")
        self._post(self._tell_broken)

    def _tell_broken(self) -> None:
        self.on_broken()

    def _spill(self, rows: Sequence[Row]) -> None:
        """Keep *rows* in a file beside the store or, where that cannot be, among the temporary files."""
        lines = "".join(_line(row) for row in rows).encode("ascii")
        places = [self.folder, Path(tempfile.gettempdir())] if self.spill is None else [self.spill.parent]
        for place in places:
            path = place / f"agentdag-{self._name}.spill"
            try:
                handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
                try:
                    _write_all(handle, lines)
                    os.fsync(handle)
                finally:
                    os.close(handle)
            except OSError:
                continue
            self.spill = path
            return
        self.spill = None

    def _take_in_spills(self) -> None:
        """What earlier processes could not write goes where it belongs."""
        for place in (self.folder, Path(tempfile.gettempdir())):
            for path in place.glob("agentdag-*.spill"):
                name = path.name.removeprefix("agentdag-").removesuffix(".spill")
                mine = place == self.folder or name == self._name
                if mine and (name == self._name or not is_live(self.folder, name)):
                    self._take_in(path)

    def _take_in(self, path: Path) -> None:
        try:
            rows = [row for line in path.read_bytes().splitlines() if (row := _row(line)) is not None]
            self._insert(rows, again=True)
            path.unlink()
        except (OSError, sqlite3.Error) as error:
            self._roll_back()
            raise StoreError(f"{path} could not be taken into the store: {error}") from error


def _tell(waiting: Sequence[Callable[[], None]]) -> None:
    for then in waiting:
        then()


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _line(row: Row) -> str:
    return json.dumps([row.table, *row.values, digest(row.values)]) + "\n"


def _row(line: bytes) -> Row | None:
    """The row in a line of a spill, unless it was cut off or damaged."""
    try:
        table, *values, told = json.loads(line)
    except (ValueError, TypeError):
        return None
    whole = table in _COLUMNS and digest(values) == told
    return Row(table, tuple(values)) if whole else None


def intact(values: Iterable[Any], told: str) -> bool:
    """Whether a row still is what was written."""
    return digest(tuple(values)) == told
