"""Questions asked of the journal: what ran, how far a run came, how long a node takes, who was asked the same before.

Reads only, and believes no row whose hash is wrong.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from agentdag.errors import StoreError, UsageError
from agentdag.events import NodeSettled, RunStatus, Status, base_name
from agentdag.limits.policy import AUTO_SHARE, ENOUGH_RECORDED, Past
from agentdag.store.codec import decoded
from agentdag.store.fold import Entry, RunRecord
from agentdag.store.journal import intact, take_in_spills
from agentdag.store.lease import is_live
from agentdag.store.schema import open_database

_ENTRY = (
    "run, seq, life, type, node, time, status, latency_s, attempts, input_tokens, output_tokens, cost, past, "
    "fingerprint, asked, body, hash"
)
LOOKED_AT = 20_000
"""The newest results that percentiles for a run are made of."""
EACH = 200
"""Of those, the newest of each node."""
_CUT = frozenset({Status.TIMED_OUT.value, Status.LATE.value, Status.CANCELLED.value})
"""Those would have taken longer: they count as at least the time at which they were cut."""
LAST = "last"
"""What stands for the newest run."""
RUNNING, KILLED, DAMAGED = "running", "interrupted", "damaged"
SPENT = RunStatus.OUT_OF_BUDGET.value


class RunLine(NamedTuple):
    """One run in a list. `elapsed_s` is of its last life; None where that had no end of its own."""

    id: str
    pipeline: str
    started: str
    status: str
    elapsed_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost: Decimal | None
    mode: str
    """Who answered: `real`, `simulated` or `replayed`."""
    rows: int | None
    """Of a batch: how many runs it has."""


@dataclass(slots=True)
class NodeStats:
    """What is recorded of a node. Times are in seconds; costs in USD, None where any is unknown."""

    node: str
    runs: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    p50_s: float | None = None
    p95_s: float | None = None
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal | None = Decimal(0)

    @property
    def suggested_timeout_s(self) -> float | None:
        """What `timeout: auto` would be."""
        enough = self.runs >= ENOUGH_RECORDED and self.p95_s is not None
        return AUTO_SHARE * self.p95_s if enough and self.p95_s is not None else None


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a node takes, by its newest recorded latencies."""

    count: int
    p50_s: float | None
    """Of the successes alone."""
    p95_s: float
    """With calls that were cut, at the time at which they were."""

    @property
    def past(self) -> Past:
        return Past(self.count, self.p95_s)


class History:
    """The store in *folder*, read; with *create* it is made where there is none, else, or where it cannot be read,
    that raises StoreError."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        self._connection = open_database(folder, create=create)
        take_in_spills(self._connection, folder)

    def close(self) -> None:
        self._connection.close()

    def _ask(self, question: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(question, values)
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.folder} cannot be read: {error}", hint="it is left as it is") from error

    def ids(self, prefix: str = "") -> list[str]:
        """The runs and batches whose ids begin with *prefix*, the newest first."""
        if prefix == LAST:
            return [line.id for line in self.runs(limit=1)]
        question = "SELECT DISTINCT coalesce(batch, id) FROM runs WHERE substr(coalesce(batch, id), 1, ?) = ?"
        found = [name for (name,) in self._ask(f"{question} ORDER BY number DESC", len(prefix), prefix)]
        rows = [name for (name,) in self._ask("SELECT id FROM runs WHERE id = ?", prefix)]
        return rows or found

    def runs(self, *, limit: int, pipeline: str | None = None) -> list[RunLine]:
        """The newest runs, batches as one, the newest first."""
        return self._lines("", limit) if pipeline is None else self._lines("WHERE pipeline = ?", pipeline, limit)

    def batch(self, name: str) -> RunLine | None:
        """The batch *name*, in a line; None where that is none."""
        return next(iter(self._lines("WHERE batch = ?", name, 1)), None)

    def _lines(self, chosen: str, *values: Any) -> list[RunLine]:
        question = f"""SELECT min(number), coalesce(batch, id), pipeline, batch, count(*)
            FROM runs {chosen} GROUP BY coalesce(batch, id) ORDER BY max(number) DESC LIMIT ?"""  # noqa: S608
        return [self._line(*row) for row in list(self._ask(question, *values))]

    def _line(self, number: int, name: str, pipeline: str, batch: str | None, rows: int) -> RunLine:
        about = self._about("number = ?", number)
        if about is None:
            return RunLine(name, pipeline, "", DAMAGED, None, None, None, None, "", None)
        members = "SELECT id FROM runs WHERE batch = ?" if batch else "SELECT ?"
        ends = list(
            self._ask(
                f"""SELECT status, latency_s, input_tokens, output_tokens, cost FROM entries AS e
                WHERE run IN ({members}) AND type = 'run.finished'
                AND seq = (SELECT max(seq) FROM entries WHERE run = e.run)""",  # noqa: S608
                name,
            )
        )
        live = is_live(self.folder, name)
        all_ended = len(ends) == rows
        rows = max(rows, (about["options"].get("batch") or {}).get("count", 0))
        statuses = {end[0] for end in ends}
        whole = len(ends) == rows and (not batch or KILLED not in statuses)
        status = RUNNING if live else _status(statuses, whole=whole)
        elapsed_s = None if not whole or live else sum(end[1] for end in ends) if not batch else None
        return RunLine(
            name,
            pipeline,
            about["started"],
            status,
            elapsed_s,
            _sum(end[2] for end in ends),
            _sum(end[3] for end in ends),
            _total(Counter(end[4] for end in ends)) if all_ended else None,
            mode_of(about["options"]),
            rows if batch else None,
        )

    def rows(self, batch: str) -> list[tuple[int, str, str | None]]:
        """The rows of *batch* that have begun: their numbers, their runs, and how these ended, if they did."""
        question = """SELECT r.row, r.id, (SELECT status FROM entries AS e WHERE e.run = r.id AND type = 'run.finished'
            AND seq = (SELECT max(seq) FROM entries WHERE run = r.id)) FROM runs AS r WHERE batch = ? ORDER BY row"""
        return [(row, run, status) for row, run, status in self._ask(question, batch)]

    def given(self, run: str) -> dict[str, Any]:
        """What was written of *run* when its last life began: its inputs, its options, the digest of its text."""
        about = self._about("id = ?", run)
        if about is None:
            raise StoreError(
                f"the record of run {run} is damaged", hint="run the pipeline again; the other runs are fine"
            )
        anew = "SELECT seq FROM entries WHERE run = ? AND type = 'run.started' AND asked IS NOT NULL"
        for (seq,) in list(self._ask(f"{anew} ORDER BY seq DESC LIMIT 1", run)):
            about |= next((json.loads(entry.asked) for entry in self.entries(run, seq=seq) if entry.asked), {})
        return about

    def record(self, run: str) -> RunRecord:
        """How far *run* has come. Raises UsageError where there is none, StoreError where its beginning is damaged."""
        known = list(self._ask("SELECT pipeline, batch FROM runs WHERE id = ?", run))
        if not known:
            raise UsageError(f"there is no run {run} in {self.folder}", hint="`agentdag runs` lists them")
        given = self.given(run)
        pipeline, batch = known[0]
        record = RunRecord(run, pipeline, batch, given["started"], self._text(given["text"]), given)
        record.fold(self.entries(run))
        record.seq, record.lives = self.reached(run)
        return record

    def last_begun(self, batch: str) -> str | None:
        """Which of the rows of *batch* began last, or went on last; None where there is none."""
        members = "SELECT id FROM runs WHERE batch = ?"
        begun = f"SELECT run FROM entries WHERE run IN ({members}) AND type = 'run.started'"  # noqa: S608
        for question in (f"{begun} ORDER BY number DESC LIMIT 1", f"{members} LIMIT 1"):
            for (run,) in list(self._ask(question, batch)):
                return str(run)
        return None

    def reached(self, run: str) -> tuple[int, int]:
        """The number of the last entry of *run*, be it damaged, and that of its last life."""
        ((seq, life),) = self._ask("SELECT max(seq), max(life) FROM entries WHERE run = ?", run)
        return seq or 0, life or 1

    def _about(self, which: str, value: Any) -> dict[str, Any] | None:
        """What was written when the run began that is meant; None where it is damaged."""
        question = f"SELECT id, pipeline, batch, row, time, body, hash FROM runs WHERE {which}"  # noqa: S608
        for *values, told in self._ask(question, value):
            if intact(values, told):
                about: dict[str, Any] = json.loads(values[5])
                return about
        return None

    def _text(self, digest: str) -> str:
        """The text of a pipeline; empty where it is damaged."""
        for (body,) in self._ask("SELECT body FROM texts WHERE digest = ?", digest):
            with suppress(ValueError):
                return str(json.loads(body))
        return ""

    def entries(self, run: str, *, node: str | None = None, seq: int | None = None) -> Iterator[Entry]:
        """What was written of *run*, or of one *node* of it, or as one *seq*, in order; without what is damaged."""
        chosen = {"run": run, "node": node, "seq": seq}
        told = {name: value for name, value in chosen.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in told)
        for row in self._ask(f"SELECT {_ENTRY} FROM entries WHERE {where} ORDER BY seq", *told.values()):  # noqa: S608
            *plain, hash_ = row
            if intact(plain, hash_):
                yield Entry(plain[1], plain[2], plain[3], plain[4], plain[5], plain[13], plain[14], plain[15])

    def paces(self, pipeline: str, nodes: int) -> dict[str, Pace]:
        """How long each of the *nodes* of *pipeline* takes."""
        question = "SELECT node, status, latency_s FROM entries WHERE past = ? ORDER BY number DESC LIMIT ?"
        good: dict[str, list[float]] = {}
        every: dict[str, list[float]] = {}
        for node, status, latency_s in self._ask(
            question, past_of(pipeline, simulated=False), min(LOOKED_AT, EACH * nodes)
        ):
            node = base_name(node)  # noqa: PLW2901 - what is asked is how its node does
            latencies = every.setdefault(node, [])
            if len(latencies) >= EACH:
                continue
            if status == Status.SUCCEEDED.value:
                good.setdefault(node, []).append(latency_s)
            if _counts(status, latency_s):
                latencies.append(latency_s)
        return {
            node: Pace(len(latencies), percentile(good.get(node, []), 0.5), percentile(latencies, 0.95) or 0.0)
            for node, latencies in every.items()
            if latencies
        }

    def stats(self, pipeline: str, *, simulated: bool = False) -> list[NodeStats]:
        """What is recorded of each node of *pipeline*, in real runs or in those on the simulator."""
        question = """SELECT node, status, latency_s, attempts, input_tokens, output_tokens, cost
            FROM entries WHERE past = ?"""
        found: dict[str, NodeStats] = {}
        latencies: dict[str, list[float]] = {}
        costs: dict[str, Counter[str | None]] = {}
        for node, status, latency_s, attempts, tokens_in, tokens_out, cost in self._ask(
            question, past_of(pipeline, simulated=simulated)
        ):
            node = base_name(node)  # noqa: PLW2901 - instances are counted together
            stats = found.get(node) or found.setdefault(node, NodeStats(node))
            stats.runs += 1
            stats.statuses[status] += 1
            stats.attempts += attempts
            stats.input_tokens += tokens_in or 0
            stats.output_tokens += tokens_out or 0
            costs.setdefault(node, Counter())[cost] += 1
            if _counts(status, latency_s):
                latencies.setdefault(node, []).append(latency_s)
        for node, stats in found.items():
            stats.p50_s = percentile(latencies.get(node, []), 0.5)
            stats.p95_s = percentile(latencies.get(node, []), 0.95)
            stats.cost = _total(costs[node])
        return list(found.values())

    def older_than(self, moment: float) -> list[str]:
        """The runs and whole batches that began before *moment* (seconds since 1970) and do not go on now."""
        question = "SELECT coalesce(batch, id) FROM runs GROUP BY 1 HAVING max(time) < ?"
        return [name for (name,) in self._ask(question, moment) if not is_live(self.folder, name)]

    def remove(self, runs: Sequence[str]) -> None:
        """Forget *runs* and batches, and give back their space. Raises StoreError where the store is being written."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for name in runs:
                members = "SELECT id FROM runs WHERE coalesce(batch, id) = ?"
                self._connection.execute(f"DELETE FROM entries WHERE run IN ({members})", (name,))  # noqa: S608
                self._connection.execute("DELETE FROM runs WHERE coalesce(batch, id) = ?", (name,))
            used = """SELECT json_extract(body, '$.text') FROM runs UNION SELECT json_extract(asked, '$.text')
                FROM entries WHERE type = 'run.started' AND asked IS NOT NULL"""
            self._connection.execute(f"DELETE FROM texts WHERE digest NOT IN ({used})")  # noqa: S608
            self._connection.execute("COMMIT")
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.folder} cannot be written: {error}") from error

    def answer(self, fingerprint: str, *, since: float = 0.0) -> NodeSettled | None:
        """The newest answer to the request with *fingerprint* that was written after *since* (seconds since 1970)."""
        question = f"SELECT {_ENTRY} FROM entries WHERE fingerprint = ? AND status = 'succeeded' ORDER BY number DESC"  # noqa: S608
        for *values, told in self._ask(question, fingerprint):
            if values[5] >= since and intact(values, told):
                event = decoded(values[15])
                if isinstance(event, NodeSettled) and not (event.cached or event.kept):
                    return event
        return None


def past_of(pipeline: str, *, simulated: bool) -> str:
    """Under which name the results of *pipeline* are experience."""
    return f"{pipeline} (simulated)" if simulated else pipeline


def mode_of(options: Mapping[str, Any]) -> str:
    """Who answered in a run with these options."""
    return "simulated" if options.get("simulate") else "replayed" if options.get("replay") else "real"


def _status(statuses: AbstractSet[str], *, whole: bool) -> str:
    """How a run, or all rows of a batch together, ended; *whole* says whether all have."""
    if SPENT in statuses:
        return SPENT
    if not whole:
        return KILLED
    return next(iter(statuses)) if len(statuses) == 1 else "failed"


def _counts(status: str, latency_s: float) -> bool:
    """Whether the latency of a result tells how long its node takes."""
    return status == Status.SUCCEEDED.value or (status in _CUT and latency_s > 0)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of *values* that is not below *share* of them (nearest rank); None of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _total(costs: Mapping[str | None, int]) -> Decimal | None:
    """The sum of *costs*, each as often as it says; None where any is unknown."""
    if None in costs:
        return None
    return sum((Decimal(cost) * times for cost, times in costs.items() if cost is not None), start=Decimal(0))
