"""Rows that the database did not take, in a file beside it until it can take them.

Each line is one row with its hash, so that a file that was cut off still gives what is whole.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.errors import StoreError
from agentdag.store.lease import is_live
from agentdag.store.schema import digest

_SUFFIX = ".spill"


class Row(NamedTuple):
    """One row of *table*, its hash still to come."""

    table: str
    values: tuple[Any, ...]


def spill(folder: Path, name: str, rows: Sequence[Row], before: Path | None) -> Path | None:
    """Keep *rows* of the run *name* in a file: in *folder*, or else among the temporary files; where, or None.

    *before* is where the rows before these went.
    """
    lines = "".join(_line(row) for row in rows).encode("ascii")
    for place in [folder, Path(tempfile.gettempdir())] if before is None else [before.parent]:
        path = place / f"agentdag-{name}{_SUFFIX}"
        try:
            handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
            try:
                if not os.fstat(handle).st_size:
                    _write_all(handle, _line(Row("of", (str(folder.resolve()),))).encode("ascii"))
                _write_all(handle, lines)
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError:
            continue
        return path
    return None


def take_in(folder: Path, insert: Callable[[Sequence[Row]], None]) -> None:
    """Give *insert* what dead processes could not write to the store in *folder*; raises StoreError where it fails."""
    for place in (folder, Path(tempfile.gettempdir())):
        for path in filter(_of_this_user, sorted(place.glob(f"agentdag-*{_SUFFIX}"))):
            name = path.name.removeprefix("agentdag-").removesuffix(_SUFFIX)
            try:
                rows = list(_rows(path))
                mine = bool(rows) and rows[0] == Row("of", (str(folder.resolve()),))
                if mine and not is_live(folder, name):
                    _insert_what_fits(rows[1:], insert)
                    path.unlink()
            except (OSError, sqlite3.Error) as error:
                raise StoreError(f"{path} could not be taken into the store: {error}") from error


def _of_this_user(path: Path) -> bool:
    """Whether this user has written *path*: among the temporary files anybody may put one."""
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return False


def _insert_what_fits(rows: Sequence[Row], insert: Callable[[Sequence[Row]], None]) -> None:
    """All at once; or one by one where one of them is what broke the database's writer."""
    try:
        insert(rows)
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError, KeyError, OverflowError):
        for row in rows:
            with suppress(sqlite3.ProgrammingError, sqlite3.IntegrityError, KeyError, OverflowError):
                insert([row])


def _rows(path: Path) -> Iterator[Row]:
    """The rows in *path*, but for those that were cut off or damaged."""
    for line in path.read_bytes().splitlines():
        try:
            table, *values, told = json.loads(line)
        except (ValueError, TypeError):
            continue
        if digest(values) == told:
            yield Row(table, tuple(values))


def _line(row: Row) -> str:
    return json.dumps([row.table, *row.values, digest(row.values)]) + "\n"


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
