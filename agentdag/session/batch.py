"""A batch: one plan for every row of a file, under one set of limits, in memory that does not grow with the rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentdag.calls import NO_USAGE, NOTHING, Amount, Usage
from agentdag.engine.afford import budget_left
from agentdag.engine.batch import Batch
from agentdag.engine.run import Run
from agentdag.engine.runner import Runner
from agentdag.errors import UsageError
from agentdag.events import INTERRUPTED, BudgetLeft, Exit, RunFinished, RunStatus
from agentdag.plan.plan import Plan
from agentdag.plan.values import resolve_inputs
from agentdag.session.options import Options, run_id
from agentdag.session.rows import Result, Results, Row, check_rows, rows_of
from agentdag.session.run import as_given, plan_again
from agentdag.session.stage import Stage
from agentdag.store.fold import RunRecord
from agentdag.store.history import History
from agentdag.store.keeper import Keeper
from agentdag.views.words import why_failed

MAX_FAILURES_KEPT = 20
"""Failed rows that the closing words can name."""


@dataclass(slots=True)
class BatchResult:
    """What a batch came to. `usage` is of the rows that ended in this life of it."""

    id: str
    rows: int
    kept: int = 0
    """Rows that had succeeded before."""
    succeeded: int = 0
    failed: int = 0
    cut_short: int = 0
    """Rows that had begun and did not end: by an interrupt, or for want of money."""
    failures: list[tuple[int, str]] = field(default_factory=list)
    """The first failed rows, each with why."""
    usage: Usage = NO_USAGE
    elapsed_s: float = 0.0
    exit_code: int = 0
    reason: str | None = None
    """Why it stopped before its last row, if it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """Which rows, with which inputs in *common*, and where their results go: to stdout, where *output* is None."""

    rows: Path
    output: Path | None = None
    common: Mapping[str, Any] = field(default_factory=dict)
    max_failures: int | None = None

    def plain(self, count: int) -> dict[str, Any]:
        """What is recorded of it, with the *count* of its rows, so that the batch can go on."""
        return {
            "count": count,
            "rows": str(self.rows.resolve()),
            "output": None if self.output is None else str(self.output.resolve()),
            "common": dict(self.common),
            "max_failures": self.max_failures,
        }

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> BatchSpec:
        """As it was recorded."""
        output = None if said["output"] is None else Path(said["output"])
        return cls(rows=Path(said["rows"]), output=output, common=said["common"], max_failures=said["max_failures"])


class BatchSession:
    """A batch of *plan*, or with *batch_id* one that goes on. Raises UsageError for any wrong row, before any call.

    *print_line* takes the results where no file does.
    """

    def __init__(
        self,
        plan: Plan,
        spec: BatchSpec,
        *,
        options: Options,
        keeper: Keeper | None,
        print_line: Callable[[str], object],
        batch_id: str | None = None,
    ) -> None:
        self._began = time.monotonic()
        self.spec = spec
        count = check_rows(spec.rows, plan, spec.common)
        self.stage = Stage(plan, replace(options, batch=spec.plain(count)), keeper=keeper)
        self.plan = self.stage.plan
        self.observers = self.stage.observers
        self.id = run_id() if batch_id is None else batch_id
        self.result = BatchResult(self.id, count)
        if spec.output is not None and spec.output.exists() and spec.output.samefile(spec.rows):
            raise UsageError(f"{spec.output} is the file of the rows", hint="give the results another one with -o")
        self._before: dict[int, tuple[str, str | None]] = {}
        spent = NOTHING
        if batch_id is not None:
            self._before = self._rows_before()
            spent = self._spent_before()
        self._budget = self.stage.bound_batch(spent)
        self._optional = {node.id for node in self.plan.nodes if node.optional}
        self._print_line = print_line
        self._done: dict[int, str] = {}
        self._results: Results
        self._batch: Batch[tuple[Row, Run]]
        self._signals: list[int] = []
        self._out_of_budget = False

    @property
    def interrupts(self) -> int:
        """How often the batch was asked to stop."""
        return len(self._signals)

    def budget_left(self) -> BudgetLeft | None:
        """What is left of what all rows may spend together; None where that is not bounded."""
        return budget_left(self._budget)

    def interrupt(self, signal: int) -> None:
        """Stop as on SIGINT: once gently, twice at once."""
        self._signals.append(signal)
        self.result.reason = INTERRUPTED
        self._batch.interrupt(signal)

    async def run(self) -> BatchResult:
        """Run every row that has not succeeded yet."""
        result = self.result
        batch = self._batch = Batch(
            self.plan.concurrency,
            self._runs(),
            lambda each: Runner(each[1], batch.slots, order=each[0].number),
            self._ended,
            lambda: self._budget is None or not self._budget.holds_up,
        )
        self._done = dict(self._rows_done())
        self._results = Results(self.spec.output, self._done, self._print_line)
        async with self.stage.open(batch.slots, rows=result.rows):
            try:
                await batch.run()
            finally:
                self._results.close()
        result.elapsed_s = time.monotonic() - self._began
        if result.reason == INTERRUPTED and self._is_whole:
            result.reason = None  # it came too late to stop anything
        result.exit_code = self._exit_code()
        return result

    def _exit_code(self) -> int:
        keeper = self.stage.keeper
        if keeper is not None and keeper.journal is not None and keeper.journal.broken is not None:
            return Exit.STORE
        if self._signals and not self._is_whole:
            return 128 + self._signals[0]
        if self._out_of_budget:
            return Exit.BUDGET
        return Exit.SUCCEEDED if self._is_whole and self.result.reason is None else Exit.FAILED

    @property
    def _is_whole(self) -> bool:
        """Whether every row has succeeded."""
        return self.result.kept + self.result.succeeded == self.result.rows

    def _rows_before(self) -> dict[int, tuple[str, str | None]]:
        """The rows that had begun in earlier lives of the batch, with their runs and how these ended."""
        assert self.stage.keeper is not None
        return {row: (run, status) for row, run, status in self.stage.keeper.history.rows(self.id)}

    def _spent_before(self) -> Amount:
        """What all rows took of the batch's budget in its earlier lives, where it has one."""
        keeper = self.stage.keeper
        if keeper is None or not self.stage.options.budget:
            return NOTHING
        return sum((keeper.history.record(run).charged for run, _ in self._before.values()), NOTHING)

    def _rows_done(self) -> Iterator[tuple[int, str]]:
        """The rows that had succeeded with the inputs that they have now, and their runs."""
        keeper = self.stage.keeper
        for row in rows_of(self.spec.rows, self.plan, self.spec.common) if self._before else ():
            run, status = self._before.get(row.number, ("", None))
            given = {} if keeper is None or status != RunStatus.SUCCEEDED else keeper.history.given(run)["inputs"]
            if status == RunStatus.SUCCEEDED and given == resolve_inputs(self.plan, row.given):
                yield row.number, run

    def _runs(self) -> Iterator[tuple[Row, Run]]:
        """The run of each row that is to be run, made when it is its turn."""
        for row in rows_of(self.spec.rows, self.plan, self.spec.common):
            inputs = resolve_inputs(self.plan, row.given)
            before = self._before.pop(row.number, None)
            keeper = self.stage.keeper
            record = None
            if before is not None and keeper is not None:
                if row.number in self._done:
                    self._keep(row.number, before[0])
                    continue
                record = keeper.history.record(before[0])
            name = f"{self.id}.{row.number}"
            yield row, self.stage.run_of(name, inputs, record=record, batch=(self.id, row.number))
            if keeper is not None and keeper.journal is not None:
                keeper.journal.on_broken = self._store_broke

    def _keep(self, row: int, run: str) -> None:
        """A row that had succeeded: its result is in the file, or is put there."""
        self.result.kept += 1
        if row not in self._results.there and self.stage.keeper is not None:
            record = self.stage.keeper.history.record(run)
            if record.finished is not None:
                ended = (node.ended for node in record.nodes.values() if node.ended is not None)
                self._results.write(Result(row, record.finished, ended))

    def _store_broke(self) -> None:
        self.result.reason = "the store could not be written"
        self._batch.store_broke()

    def _ended(self, each: tuple[Row, Run], finished: RunFinished) -> None:
        row, run = each
        result = self.result
        try:
            self._results.write(Result(row.number, finished, run.results.values()))
        except OSError as error:
            result.reason = f"the results could not be written: {error.strerror or error}"
            self._batch.stop()
        result.usage += finished.usage
        if finished.status is RunStatus.SUCCEEDED:
            result.succeeded += 1
            return
        result.cut_short += finished.status is not RunStatus.FAILED
        if finished.status is RunStatus.OUT_OF_BUDGET:
            if self._budget is not None:
                result.reason = result.reason or finished.reason
                self._batch.stop()
            self._out_of_budget = True
        if finished.status is not RunStatus.FAILED:
            return
        result.failed += 1
        if len(result.failures) < MAX_FAILURES_KEPT:
            result.failures.append((row.number, why_failed(finished, run.results.values(), self._optional)))
        most = self.spec.max_failures
        if most is not None and result.failed > most and result.reason is None:
            result.reason = f"more than {most} rows failed" if most else "a row failed"
            self._batch.stop()


def unfinished(history: History, batch: str) -> Iterator[RunRecord]:
    """The records of the rows of *batch* that had begun and not succeeded."""
    for _, run, status in history.rows(batch):
        if status != RunStatus.SUCCEEDED:
            yield history.record(run)


@dataclass(frozen=True, slots=True)
class BatchTakenUp:
    """A batch that is to go on: its pipeline as it is now, and what it was given."""

    plan: Plan
    options: Options
    spec: BatchSpec
    pipeline: str
    """By which name it is on record."""


def take_up_batch(history: History, batch: str, *, allowed: tuple[Path, ...] = ()) -> BatchTakenUp | None:
    """The *batch*; None where that is none. Raises SpecError where its pipeline is not valid."""
    last = history.last_begun(batch)
    if last is None:
        return None
    record = history.record(last)
    plan = plan_again(record.options, record.text, allowed)
    spec = BatchSpec.of(record.options["batch"])
    spec = replace(spec, common=as_given(plan, spec.common))
    return BatchTakenUp(plan, Options.of(record.options), spec, record.pipeline)
