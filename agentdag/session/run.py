"""One run from its plan to its result, alone or going on where it was."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agentdag.calls import Usage
from agentdag.engine.runner import AT_ONCE_S, Runner
from agentdag.engine.shelf import Ended
from agentdag.errors import SpecError, UsageError
from agentdag.events import NodeSettled, Observer, RunFinished, RunStatus
from agentdag.limits.pool import AgentPool
from agentdag.plan.compile import compile_file, compile_text
from agentdag.plan.plan import Plan
from agentdag.plan.values import FileText, resolve_inputs
from agentdag.providers import registry
from agentdag.providers.settings import REDACTED
from agentdag.session.options import Options, run_id
from agentdag.session.stage import Stage
from agentdag.store.fold import RunRecord
from agentdag.store.history import History
from agentdag.store.keeper import Keeper, key_of
from agentdag.views.words import names

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunResult:
    """What a run came to. `nodes` holds how each node settled; times are in seconds."""

    run: str
    status: RunStatus
    outputs: Mapping[str, Any]
    output_errors: Mapping[str, str]
    nodes: Mapping[str, NodeSettled]
    usage: Usage
    elapsed_s: float
    sequential_s: float
    critical_path_s: float
    exit_code: int

    def __repr__(self) -> str:
        return f"<RunResult {self.run}: {self.status}, {len(self.nodes)} nodes, {self.elapsed_s:.3f} s>"

    @property
    def ok(self) -> bool:
        return self.status is RunStatus.SUCCEEDED


class Session:
    """One run of *plan*. Raises UsageError where inputs, keys or functions are missing, before any call.

    With a *keeper* the run is written to its store, and goes by what is recorded there; or it is the run that the
    keeper has on record, and goes on.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: Mapping[str, Any] | None = None,
        *,
        options: Options | None = None,
        observers: tuple[Observer, ...] = (),
        environment: Mapping[str, str] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._began = time.monotonic()
        self.stage = Stage(plan, options or Options(), observers=observers, environment=environment, keeper=keeper)
        self.plan = self.stage.plan
        self.observers = self.stage.observers
        self._record = None if keeper is None else keeper.record
        self.id = run_id() if self._record is None else self._record.id
        self._inputs = resolve_inputs(self.plan, inputs or {})
        self._runner: Runner | None = None
        self._signals: list[int] = []

    async def run(self, *, began: float | None = None) -> RunResult:
        """Run it to the end. *began* is when, on the monotonic clock, the start-up began that is told."""
        pool = AgentPool(self.plan.concurrency)
        async with self.stage.open(pool.slots):
            run = self.stage.run_of(self.id, self._inputs, record=self._record)
            startup_s = time.monotonic() - (self._began if began is None else began)
            runner = self._runner = Runner(run, pool.slots, startup_s=startup_s)
            if run.log is not None:
                run.log.journal.on_broken = runner.store_broke
            for signal in self._signals:  # came while providers were made
                asyncio.get_running_loop().call_soon(runner.interrupt, signal)
            try:
                finished = await runner.run()
            finally:
                pool.close()
        return _result(finished, run.results)

    def interrupt(self, signal: int) -> None:
        """Stop as on SIGINT: once gently, twice at once."""
        self._signals.append(signal)
        if self._runner is not None:
            self._runner.interrupt(signal)

    @property
    def answered(self) -> frozenset[str]:
        """The nodes that have an answer from an earlier life of the run, most likely one that is kept."""
        nodes = {} if self._record is None else self._record.nodes
        return frozenset(node.id for node in self.plan.nodes if node.id in nodes and nodes[node.id].answers)

    @property
    def interrupts(self) -> int:
        """How often the run was asked to stop."""
        return len(self._signals)


async def arun(
    plan: Plan,
    inputs: Mapping[str, Any] | None = None,
    *,
    options: Options | None = None,
    observers: tuple[Observer, ...] = (),
    store: str | Path | None = None,
) -> RunResult:
    """Run *plan* and return its result; a failed run is a result too.

    With *store*, a folder, the run is recorded there as the command line records it. Raises UsageError, or StoreError
    where the store cannot be written, before any call.
    """
    keeper = None if store is None else keeper_of(plan, Path(store))
    return await Session(plan, inputs, options=options, observers=observers, keeper=keeper).run()


def run(
    plan: Plan,
    inputs: Mapping[str, Any] | None = None,
    *,
    options: Options | None = None,
    observers: tuple[Observer, ...] = (),
    store: str | Path | None = None,
) -> RunResult:
    """As `arun`, for code that has no event loop of its own."""
    return _outside_a_loop("run", lambda: arun(plan, inputs, options=options, observers=observers, store=store))


async def aresume(
    run: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    store: str | Path,
    options: Options | None = None,
    observers: tuple[Observer, ...] = (),
) -> RunResult:
    """Go on with the *run* that *store* has on record: what was answered is kept, the rest is run.

    Its pipeline is read anew; *inputs* are those that change, *options* the run's own where None. Raises UsageError
    where there is no such run.
    """
    with closing(History(Path(store))) as history:
        taken = take_up(history, run)
        session = Session(
            taken.plan,
            taken.with_inputs(inputs or {}),
            options=options or taken.options,
            observers=observers,
            keeper=Keeper(history, taken.record.pipeline, taken.record),
        )
        return await session.run()


def resume(
    run: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    store: str | Path,
    options: Options | None = None,
    observers: tuple[Observer, ...] = (),
) -> RunResult:
    """As `aresume`, for code that has no event loop of its own."""
    return _outside_a_loop("resume", lambda: aresume(run, inputs, store=store, options=options, observers=observers))


def _outside_a_loop(name: str, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_loop(main())
    raise UsageError(f"agentdag.{name}() cannot be called from async code", hint=f"write `await agentdag.a{name}(...)`")


def keeper_of(plan: Plan, folder: Path) -> Keeper:
    """The store in *folder*, for a run of *plan*; raises StoreError where it cannot be written."""
    return Keeper(History(folder, create=True), key_of(folder, plan.path, plan.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenUp:
    """A run that is to go on: its pipeline as it is now, and what it was given."""

    record: RunRecord
    plan: Plan
    inputs: Mapping[str, Any]
    options: Options

    def with_inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Its inputs, but for those that are *given* anew; raises UsageError where one is not on record."""
        return kept_inputs(self.plan, self.inputs, given)


def take_up(history: History, run: str, *, allowed: tuple[Path, ...] = ()) -> TakenUp:
    """The *run* in the store, with its pipeline read anew, or as it was where the file is gone.

    Raises UsageError where there is no such run, SpecError where the pipeline is not valid any more.
    """
    record = history.record(run)
    if record.batch is not None:
        raise UsageError(
            f"{run} is a row of a batch, and goes on with it",
            hint=f"`agentdag resume {record.batch}` runs what is left",
        )
    plan = plan_again(record.options, record.text, allowed)
    inputs = as_given(plan, record.inputs)
    return TakenUp(record=record, plan=plan, inputs=inputs, options=Options.of(record.options))


def plan_again(said: Mapping[str, Any], text: str, allowed: tuple[Path, ...]) -> Plan:
    """The pipeline of a recorded run, read anew, or from *text* where its file is gone; raises SpecError."""
    path = Path(said["path"] if said["path"] != "-" else f"{said['folder']}/-")
    allowed = (*(Path(each) for each in said["allowed"]), *allowed)
    types = registry.provider_types()
    if path.is_file():
        compiled = compile_file(path, provider_types=types, allowed=allowed)
    else:
        compiled = compile_text(text, path, provider_types=types, allowed=allowed)
    if compiled.plan is None:
        raise SpecError(compiled.findings)
    return compiled.plan


def as_given(plan: Plan, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The *recorded* inputs that *plan* still has, as they were given: of a file, its text."""
    return {
        name: FileText(value) if plan.inputs[name].type == "file" and isinstance(value, str) else value
        for name, value in recorded.items()
        if name in plan.inputs
    }


def kept_inputs(plan: Plan, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The *recorded* inputs, but for those that are *given* anew; refuses what stands in the place of a secret."""
    kept = {name: value for name, value in recorded.items() if name not in given}
    lost = [
        name for name, value in kept.items() if value != plan.inputs[name].default and REDACTED in json.dumps(value)
    ]
    if lost:
        ways = " ".join(f"-i {name}=..." for name in lost)
        raise UsageError(f"{names(lost)} held a secret, which is not on record", hint=f"give it again: {ways}")
    return {**kept, **given}


_LEFT_BEHIND: list[asyncio.Task[Any]] = []
"""Tasks that do not stop. They are kept: taken apart, they would run on with what they swallow, and nobody to wait."""


def has_left_tasks() -> bool:
    """Whether something of a run does not stop, so that the process can only end by force."""
    return bool(_LEFT_BEHIND)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, but nobody waits for ever for a task that does not stop when it is cancelled."""
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            _, stuck = loop.run_until_complete(asyncio.wait(left, timeout=AT_ONCE_S))
            _LEFT_BEHIND.extend(stuck)
            for task in stuck:  # told already, when it was left behind
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no other way
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def _result(finished: RunFinished, results: Mapping[str, NodeSettled]) -> RunResult:
    return RunResult(
        run=finished.run,
        status=finished.status,
        outputs=finished.outputs,
        output_errors=finished.output_errors,
        nodes=Ended(results),
        usage=finished.usage,
        elapsed_s=finished.elapsed_s,
        sequential_s=finished.sequential_s,
        critical_path_s=finished.critical_path_s,
        exit_code=finished.exit_code,
    )
