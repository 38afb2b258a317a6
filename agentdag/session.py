"""Wires one run: providers, functions, limits, observers and the engine.

The only place that knows all of them; whatever is wrong with the invocation is found here, before any call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from agentdag.agents.code import code_of
from agentdag.agents.function import check_arguments, load_function
from agentdag.calls import Provider, Usage
from agentdag.engine.reuse import Reuse
from agentdag.engine.run import Run
from agentdag.engine.runner import AT_ONCE_S, Runner
from agentdag.errors import SpecError, UsageError
from agentdag.events import NodeSettled, Observer, Observers, RunFinished, RunStatus
from agentdag.language.spec import ProviderSpec
from agentdag.limits.governor import Governor
from agentdag.limits.policy import Recall, RetryBudget, no_past
from agentdag.limits.slots import Slots
from agentdag.plan.compile import Compiled, compile_file, compile_text
from agentdag.plan.plan import CallWork, ModelRef, Plan, PlanNode, function_name
from agentdag.plan.preview import Preview, preview
from agentdag.plan.select import selected
from agentdag.plan.values import FileText, resolve_inputs
from agentdag.providers import prices, registry
from agentdag.providers.http import SharedHttp
from agentdag.providers.recorded import RecordingProvider, Recordings, ReplayProvider
from agentdag.providers.settings import Secrets, Settings, expand
from agentdag.providers.simulated import SimulatedProvider
from agentdag.store.fold import RunRecord
from agentdag.store.history import History, Pace
from agentdag.store.keeper import Keeper, key_of
from agentdag.store.log import Identity

T = TypeVar("T")
_LOG = logging.getLogger("agentdag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run differs from what its file says; None leaves the file's word.

    With *simulate* the built-in simulator answers for everything that would leave the machine, every
    duration in the file times *time_scale*. *seed* makes the simulator's chance repeatable. *select* names the nodes
    to run (`a`, `+a`, `a+`); what they read besides is taken from earlier runs. With *cache* every node's answer is
    looked up among those of earlier runs. *repeat* names nodes that run whatever is there of them in a run that goes
    on, *skip* those that do not run any more. Each exchange with a model is written to the folder *record*, or answered
    out of the folder *replay*, *replay_pace* times as slowly as it was.
    """

    concurrency: int | None = None
    schedule: str | None = None
    simulate: bool = False
    time_scale: float = 1.0
    seed: int = 0
    stream: bool = False
    cache: bool = False
    select: tuple[str, ...] = ()
    repeat: frozenset[str] = frozenset()
    skip: frozenset[str] = frozenset()
    record: Path | None = None
    replay: Path | None = None
    replay_pace: float = 0.0

    @property
    def real(self) -> bool:
        """Whether its latencies tell anything of later runs."""
        return not self.simulate and self.replay is None


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


def compile_pipeline(path: str | Path, *, allowed: tuple[Path, ...] = (), lint: bool = False) -> Compiled:
    """The pipeline at *path* with everything that was found in it; with *lint* warnings too."""
    types = registry.provider_types()
    return compile_file(Path(path), provider_types=types, allowed=allowed, lint=prices.unknown_model if lint else None)


def load(path: str | Path, *, allowed: tuple[Path, ...] = ()) -> Plan:
    """The pipeline at *path*, compiled. Raises SpecError with all findings; makes no call."""
    compiled = compile_pipeline(path, allowed=allowed)
    if compiled.plan is None:
        raise SpecError(compiled.findings)
    return compiled.plan


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
        options = options or Options()
        self._began = time.monotonic()
        self.options = options
        plan, self._borrowed = selected(plan, options.select) if options.select else (plan, frozenset[str]())
        plan, self.recall = recalled(plan, keeper, options)
        self.plan = planned(plan, options)
        self.observers = Observers(observers)
        self._keeper = keeper
        self._record = None if keeper is None else keeper.record
        self.id = _run_id() if self._record is None else self._record.id
        self._secrets = Secrets()
        self._environment = os.environ if environment is None else environment
        self._inputs = resolve_inputs(self.plan, inputs or {})
        self._functions = dict(_functions(self.plan, options))
        self._recordings = None if options.replay is None else Recordings(options.replay)
        self._runner: Runner | None = None
        self._signals: list[int] = []

    async def run(self, *, began: float | None = None) -> RunResult:
        """Run it to the end. *began* is when, on the monotonic clock, the start-up began that is told."""
        http = SharedHttp(self.plan.concurrency)
        providers: dict[str, Provider] = {}
        try:
            self._make_providers(providers, http)
            return await self._run(providers, self._began if began is None else began)
        finally:
            open_: list[Provider | SharedHttp] = [*providers.values(), http]
            for each in open_:
                try:
                    await each.aclose()
                except Exception as error:  # noqa: BLE001 - a provider's bug must not lose a finished run
                    _LOG.warning("a provider could not be closed: %s: %s", type(error).__name__, error)

    def interrupt(self, signal: int) -> None:
        """Stop as on SIGINT: once gently, twice at once."""
        self._signals.append(signal)
        if self._runner is not None:
            self._runner.interrupt(signal)

    @property
    def unused_recordings(self) -> list[str]:
        """The files of `replay` that nothing has asked for."""
        return [] if self._recordings is None else self._recordings.unused()

    @property
    def store(self) -> Path | None:
        """Where the run is kept, if it is."""
        return None if self._keeper is None else self._keeper.folder

    @property
    def interrupts(self) -> int:
        """How often the run was asked to stop."""
        return len(self._signals)

    def _wake(self) -> None:
        if self._runner is not None:
            self._runner.wake()

    async def _run(self, providers: Mapping[str, Provider], began: float) -> RunResult:
        slots = Slots(self.plan.concurrency, wake=self._wake)
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        run = Run(
            id=self.id,
            plan=self.plan,
            inputs=self._inputs,
            providers=providers,
            functions=self._functions,
            simulator=self._played(SimulatedProvider(seed=self.options.seed)) if self.options.simulate else None,
            governor=Governor(slots, Random(), RetryBudget(len(self.plan.nodes))),  # noqa: S311 - no secret in it
            emit=self.observers,
            redact=self._secrets.redact,
            now=_clock(),
            started=started if self._record is None else self._record.started,
            stream=self.options.stream,
            recall=self.recall,
            replays=self._recordings is not None,
            codes={name: code_of(function) for name, function in self._functions.items()} if self._keeper else {},
        )
        try:
            if self._keeper is not None:
                self._keep(run, self._keeper)
            runner = self._runner = Runner(run, slots, startup_s=time.monotonic() - began)
            if run.log is not None:
                run.log.journal.on_broken = runner.store_broke
            for signal in self._signals:  # came while providers were made
                asyncio.get_running_loop().call_soon(runner.interrupt, signal)
            finished = await runner.run()
        finally:
            if self._keeper is not None:
                self._keeper.end()
        return _result(finished, run.settled)

    def _keep(self, run: Run, keeper: Keeper) -> None:
        """Write the run to its store, and take from there what is there already."""
        options = self.options
        said = {
            "concurrency": options.concurrency,
            "schedule": options.schedule,
            "simulate": options.simulate,
            "time_scale": options.time_scale,
            "seed": options.seed,
            "cache": options.cache,
            "select": list(options.select),
            "allowed": [str(folder.resolve()) for folder in self.plan.allowed],
            "replay": None if options.replay is None else str(options.replay.resolve()),
            "path": str(self.plan.path if str(self.plan.path) == "-" else self.plan.path.resolve()),
            "folder": str(Path.cwd()),
        }
        identity = Identity(
            id=run.id,
            pipeline=keeper.pipeline,
            started=run.started,
            text=self.plan.source,
            inputs=self._inputs,
            options=said,
        )
        run.log = keeper.begin(identity, self._secrets.redact_json, simulated=not options.real)
        run.reuse = Reuse(
            self.plan,
            self._record,
            keeper.history,
            borrowed=self._borrowed,
            repeat=options.repeat,
            skip=options.skip,
            cache=options.cache,
        )

    def _played(self, provider: Provider) -> Provider:
        """*provider*, recorded where the options say so."""
        folder = self.options.record
        return provider if folder is None else RecordingProvider(provider, folder, self._secrets.redact_json)

    def _make_providers(self, providers: dict[str, Provider], http: SharedHttp) -> None:
        """Fill in every provider that is asked; raises UsageError that names all that cannot be made."""
        problems: list[UsageError] = []
        for name in self._asked():
            try:
                if self._recordings is not None:
                    providers[name] = ReplayProvider(self._recordings, self.options.replay_pace)
                else:
                    providers[name] = self._played(self._provider(name, http))
            except UsageError as problem:
                problems.append(problem)
        if problems:
            hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
            raise UsageError("; ".join(p.message for p in problems), hint="; ".join(hints) or None)

    def _asked(self) -> list[str]:
        """Every provider that a node of this run will really ask."""
        asked = {
            choice.model.provider
            for node in self.plan.nodes
            for choice in node.choices
            if choice.model is not None and not (self.options.simulate and node.simulated is not False)
        }
        return sorted(asked)

    def _provider(self, name: str, http: SharedHttp) -> Provider:
        spec = self.plan.providers.get(name) or ProviderSpec()
        kind = spec.type or name
        if kind == registry.SIMULATED:
            return SimulatedProvider(name, self.options.seed, stream=spec.stream)
        self._secrets.add(spec.api_key if spec.api_key and "${" not in spec.api_key else None)
        fields = spec.model_dump(exclude={"type", "prices"})
        said = expand(fields, f"providers.{name}", self._environment, self._secrets)
        settings = Settings(
            name=name, type=kind, http=http, secrets=self._secrets, environment=self._environment, **said
        )
        return registry.create(settings)


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
    run: str, *, store: str | Path, options: Options | None = None, observers: tuple[Observer, ...] = ()
) -> RunResult:
    """Go on with the *run* that *store* has on record: what was answered is kept, the rest is run.

    Its pipeline is read anew; *options* are the run's own where None. Raises StoreError where there is no such run.
    """
    taken = take_up(Path(store), run)
    options = options or taken.options
    keeper = keeper_of(taken.plan, Path(store), taken.record)
    return await Session(taken.plan, taken.inputs, options=options, observers=observers, keeper=keeper).run()


def resume(
    run: str, *, store: str | Path, options: Options | None = None, observers: tuple[Observer, ...] = ()
) -> RunResult:
    """As `aresume`, for code that has no event loop of its own."""
    return _outside_a_loop("resume", lambda: aresume(run, store=store, options=options, observers=observers))


def _outside_a_loop(name: str, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_loop(main())
    raise UsageError(f"agentdag.{name}() cannot be called from async code", hint=f"write `await agentdag.a{name}(...)`")


def keeper_of(plan: Plan, folder: Path, record: RunRecord | None = None) -> Keeper:
    """The store in *folder*, for a run of *plan*, or to go on with *record*; StoreError where it cannot be written."""
    return Keeper(folder, key_of(folder, plan.path, plan.name), record)


def recalled(plan: Plan, keeper: Keeper | None, options: Options) -> tuple[Plan, Recall]:
    """*plan* with the durations that are recorded of its nodes, and what is recorded of their past.

    A simulated run goes by its file alone.
    """
    if keeper is None or not options.real:
        return plan, no_past
    paces = keeper.history.paces(keeper.pipeline)
    pasts = {node: pace.past for node, pace in paces.items()}
    return lasting(plan, paces), pasts.get


def lasting(plan: Plan, paces: Mapping[str, Pace]) -> Plan:
    """*plan* if each node takes as long as half of the times before."""
    return plan.lasting({node: pace.p50_s for node, pace in paces.items() if pace.p50_s is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenUp:
    """A run that is to go on: its pipeline as it is now, and what it was given."""

    record: RunRecord
    plan: Plan
    inputs: Mapping[str, Any]
    options: Options


def take_up(folder: Path, run: str, *, allowed: tuple[Path, ...] = ()) -> TakenUp:
    """The *run* in the store *folder*, with its pipeline read anew, or as it was where the file is gone.

    Raises StoreError where there is no such run, SpecError where the pipeline is not valid any more.
    """
    history = History(folder)
    try:
        record = history.record(run)
    finally:
        history.close()
    said = record.options
    path = Path(said["path"])
    allowed = (*(Path(each) for each in said["allowed"]), *allowed)
    types = registry.provider_types()
    if path.is_file():
        compiled = compile_file(path, provider_types=types, allowed=allowed)
    else:
        compiled = compile_text(record.text, path, provider_types=types, allowed=allowed)
    if compiled.plan is None:
        raise SpecError(compiled.findings)
    options = Options(
        concurrency=said["concurrency"],
        schedule=said["schedule"],
        simulate=said["simulate"],
        time_scale=said["time_scale"],
        seed=said["seed"],
        cache=said["cache"],
        replay=None if said.get("replay") is None else Path(said["replay"]),
        select=tuple(said["select"]),
    )
    inputs = {name: _as_given(compiled.plan, name, value) for name, value in record.inputs.items()}
    return TakenUp(record=record, plan=compiled.plan, inputs=inputs, options=options)


def _as_given(plan: Plan, name: str, value: Any) -> Any:
    """The recorded *value* of an input: of a file, its text."""
    spec = plan.inputs.get(name)
    return FileText(value) if spec is not None and spec.type == "file" and isinstance(value, str) else value


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
            for task in stuck:  # told already, when it was left behind
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio has no other way
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def planned(plan: Plan, options: Options) -> Plan:
    """*plan* as *options* change it, durations scaled; raises UsageError where an option makes no sense."""
    if options.time_scale != 1 and not (options.simulate or options.replay):
        raise UsageError("--time-scale scales simulated and replayed time only", hint="add --simulate")
    if options.replay is not None and (options.simulate or options.record is not None):
        other = "--simulate" if options.simulate else "--record"
        raise UsageError(f"--replay and {other} exclude each other: answers come from one place")
    if not 0 < options.time_scale < math.inf:
        raise UsageError(f"--time-scale is a number above 0, not {options.time_scale:g}")
    if options.concurrency is not None and options.concurrency < 1:
        raise UsageError(f"--concurrency is at least 1, not {options.concurrency}")
    if options.schedule not in {None, "eager", "waves"}:
        raise UsageError(f"--schedule is eager or waves, not {options.schedule}")
    plan = replace(
        plan,
        concurrency=options.concurrency or plan.concurrency,
        schedule=options.schedule or plan.schedule,
    )
    return plan.scaled(options.time_scale)


def foreseen(plan: Plan, inputs: Mapping[str, Any] | None = None, options: Options | None = None) -> Preview:
    """What a run of *plan* would do and cost; makes no call. Raises UsageError where an input is missing."""
    options = options or Options()
    plan = planned(plan, options)
    names = {"id": _run_id(), "started": datetime.now(UTC).isoformat(timespec="milliseconds")}
    played = (node for node in plan.nodes if options.simulate and node.simulated is not False)
    simulated = {str(choice.model) for node in played for choice in node.choices}

    def cost(model: ModelRef, usage: Usage) -> Decimal | None:
        spec = plan.providers.get(model.provider) or ProviderSpec()
        kind = spec.type or model.provider
        if kind == registry.SIMULATED or str(model) in simulated:
            return Decimal(0)
        return prices.cost_usd(kind, model.name, usage, _declared(spec))

    return preview(plan, resolve_inputs(plan, inputs or {}), cost=cost, names=names)


def _declared(spec: ProviderSpec) -> prices.Prices | None:
    """The prices that the file itself says."""
    said = spec.prices
    if said is None:
        return None
    cached = said.input if said.cached_input is None else said.cached_input
    return prices.Prices(*(Decimal(str(each)) for each in (said.input, said.output, cached)))


def _run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _functions(plan: Plan, options: Options) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function that a node of this run may call, by its name."""
    for node in plan.nodes:
        for choice in node.choices:
            if isinstance(choice.work, CallWork) and not (options.simulate and node.simulated):
                yield function_name(choice.work), _function(node, choice.work, plan)


def _function(node: PlanNode, work: CallWork, plan: Plan) -> Callable[..., Any]:
    name = function_name(work)
    try:
        function = load_function(work.module, work.function, plan.path.parent)
    except (Exception, SystemExit) as error:
        raise UsageError(f"node `{node.id}` cannot call {name}: {type(error).__name__}: {error}") from error
    problem = check_arguments(function, work.arguments)
    if problem is not None:
        raise UsageError(f"node `{node.id}` cannot call {name}: {problem}")
    return function


def _clock() -> Callable[[], float]:
    """Seconds since now, on the clock of the event loop."""
    now = time.monotonic
    start = now()
    return lambda: now() - start


def _result(finished: RunFinished, results: Mapping[str, NodeSettled]) -> RunResult:
    return RunResult(
        run=finished.run,
        status=finished.status,
        outputs=finished.outputs,
        output_errors=finished.output_errors,
        nodes=results,
        usage=finished.usage,
        elapsed_s=finished.elapsed_s,
        sequential_s=finished.sequential_s,
        critical_path_s=finished.critical_path_s,
        exit_code=finished.exit_code,
    )
