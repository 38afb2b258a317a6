"""The rows of a batch: inputs from JSON lines or CSV, and results as JSON lines, one a row."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.errors import UsageError
from agentdag.events import NodeSettled, RunFinished
from agentdag.plan.plan import Plan
from agentdag.plan.values import parse_value, resolve_inputs

OWN = "x-"
"""A column of that name is the user's own."""
MAX_CELL = 2**25
"""Characters of a cell."""
MAX_TOLD = 5
"""Wrong rows that are told."""


class Row(NamedTuple):
    """One row of the file: its number, from 1, and its inputs as they were given."""

    number: int
    given: Mapping[str, Any]


def rows_of(path: Path, plan: Plan, common: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of *path*, each with the *common* inputs where it has none of its own; raises UsageError."""
    read = _csv_rows(path, plan) if path.suffix.lower() == ".csv" else _json_rows(path, list(plan.inputs))
    for number, given in enumerate(read, start=1):
        yield Row(number, {**common, **{name: value for name, value in given.items() if not name.startswith(OWN)}})


def check_rows(path: Path, plan: Plan, common: Mapping[str, Any]) -> int:
    """How many rows *path* has; raises UsageError that names what is wrong with any of them, before any call."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no regular file", hint="rows are read twice, and again when the batch goes on")
    problems: list[str] = []
    number = 0
    for number, given in rows_of(path, plan, common):
        try:
            resolve_inputs(plan, given)
        except UsageError as error:
            problems.append(f"row {number}: {error.message}")
    if problems:
        more = f"; and {len(problems) - MAX_TOLD} more rows" if len(problems) > MAX_TOLD else ""
        hint = "a column that begins with `x-` is your own and is left alone"
        raise UsageError(f"{path}: " + "; ".join(problems[:MAX_TOLD]) + more, hint=hint)
    if not number:
        raise UsageError(f"{path} has no rows", hint="write one JSON object a line, or a CSV file with a header")
    return number


def _json_rows(path: Path, inputs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One object a line; or, where there is but one input, its value alone."""
    with _opened(path) as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                given = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{path}:{line} is no JSON: {error}", hint="write one JSON object a line") from None
            if isinstance(given, str) and len(inputs) == 1:
                given = {inputs[0]: given}
            if not isinstance(given, dict):
                raise UsageError(f"{path}:{line} is no JSON object", hint='write {"name": value}')
            yield given


def _csv_rows(path: Path, plan: Plan) -> Iterator[dict[str, Any]]:
    with _opened(path) as stream:
        csv.field_size_limit(MAX_CELL)
        reader = csv.DictReader(stream, strict=True)
        try:
            names = reader.fieldnames or ()
            if len(set(names)) < len(names):
                twice = next(name for name in names if list(names).count(name) > 1)
                raise UsageError(f"{path}:1 has two columns `{twice}`")
            for record in reader:
                if None in record or None in record.values():
                    raise UsageError(f"{path}:{reader.line_num} has not as many cells as the header")
                yield {
                    name: parse_value(text, plan.inputs.get(name))
                    for name, text in record.items()
                    if _says(text, name, plan)
                }
        except csv.Error as error:
            raise UsageError(f"{path}:{reader.line_num} is no CSV: {error}") from None


def _says(text: str, name: str, plan: Plan) -> bool:
    """Whether a cell says anything: an empty one is no number, and no list."""
    spec = plan.inputs.get(name)
    return bool(text) or spec is None or spec.type == "string"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error.reason}") from None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a row."""

    row: int
    finished: RunFinished
    nodes: Iterable[NodeSettled]
    """How its nodes have settled."""

    def line(self) -> str:
        """The row as one line of JSON."""
        finished = self.finished
        failed = ((node.node, node.error) for node in self.nodes if node.error is not None)
        cut = [node.node for node in self.nodes if node.truncated]
        plain = {
            "row": self.row,
            "status": finished.status.value,
            "outputs": finished.outputs,
            "errors": {name: {"kind": error.kind.value, "message": error.message} for name, error in failed},
            "output_errors": finished.output_errors,
            **({"truncated": cut} if cut else {}),
            "usage": finished.usage.plain(),
            "elapsed_s": round(finished.elapsed_s, 3),
            "run": finished.run,
        }
        return json.dumps(plain) + "\n"


class Results:
    """The file of results, to which each row is written as it ends; what is there of rows in *keep* stays."""

    def __init__(self, path: Path | None, keep: Mapping[int, str], print_line: Callable[[str], object]) -> None:
        """*keep* holds, by row, the run whose line stays. Where *path* is None, lines go to *print_line*."""
        self.path = path
        self.there: set[int] = set()
        if path is None:
            self._write: Callable[[str], object] = print_line
            return
        if path.is_file() and keep:
            self.there = self._clean(path, keep)
        self._stream = path.open("ab" if self.there else "wb", buffering=0)
        self._write = self._append

    def _append(self, line: str) -> None:
        """Write all of *line*; raises OSError where that cannot be."""
        left = line.encode("ascii")
        while left:
            left = left[self._stream.write(left) or 0 :]

    def write(self, result: Result) -> None:
        self._write(result.line())

    def close(self) -> None:
        if self.path is not None:
            self._stream.close()

    @staticmethod
    def _clean(path: Path, keep: Mapping[int, str]) -> set[int]:
        """Leave the lines of *keep* alone, in a file that is whole; the rows that have one."""
        there: set[int] = set()
        beside = path.with_name(f".{path.name}.part")
        with path.open(encoding="utf-8", errors="replace") as old, beside.open("w", encoding="ascii") as new:
            for text in old:
                try:
                    line = json.loads(text)
                    row, run = line["row"], line["run"]
                except (ValueError, KeyError, TypeError):
                    continue
                if keep.get(row) == run and row not in there and text.endswith("\n"):
                    there.add(row)
                    new.write(json.dumps(line) + "\n")
            new.flush()
            os.fsync(new.fileno())
        beside.replace(path)
        return there
