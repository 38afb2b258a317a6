"""Where runs of one plan take place: its providers, functions, limits and store.

Whatever is wrong with the invocation is found here, before any call.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Protocol

from agentdag.agents.code import code_of
from agentdag.agents.command import Programs
from agentdag.agents.function import check_arguments, function_in, load_module
from agentdag.agents.http import HttpClient
from agentdag.agents.toolbox import Toolbox
from agentdag.calls import NOTHING, Amount, Provider
from agentdag.engine.reuse import Reuse
from agentdag.engine.run import Run
from agentdag.errors import Failure, UsageError
from agentdag.events import Observer, Observers
from agentdag.language.limits import DEFAULT_HEADROOM, RateSpec
from agentdag.language.spec import ProviderSpec
from agentdag.limits.budget import Budget
from agentdag.limits.estimates import Estimates
from agentdag.limits.governor import Governor
from agentdag.limits.policy import RetryBudget
from agentdag.limits.rates import MINUTE_S, Lane, Quotas
from agentdag.limits.slots import Slots
from agentdag.limits.warmth import Warmth
from agentdag.plan.plan import Plan
from agentdag.plan.select import selected
from agentdag.plan.work import CallWork, CommandWork, HttpWork, ModelRef, PromptWork, Tooling
from agentdag.providers import registry
from agentdag.providers.http import SharedHttp
from agentdag.providers.recorded import RecordingProvider, Recordings, ReplayProvider
from agentdag.providers.settings import Secrets, expand
from agentdag.providers.simulated import SimulatedProvider
from agentdag.session.money import PriceList, budget_of, check_prices, with_budget
from agentdag.session.options import Options, planned, recalled
from agentdag.session.providers import Surroundings, settings_of
from agentdag.session.surroundings import check_program, readers_of
from agentdag.session.tools import Tools
from agentdag.store.fold import RunRecord
from agentdag.store.keeper import Keeper
from agentdag.store.log import Identity


class _Closes(Protocol):
    async def aclose(self) -> None: ...


_LOG = logging.getLogger("agentdag")


class Stage:
    """Where runs of *plan* take place. Raises UsageError where keys or functions are missing, before any call.

    With a *keeper* they are written to its store, and go by what is recorded there.
    """

    def __init__(
        self,
        plan: Plan,
        options: Options,
        *,
        observers: tuple[Observer, ...] = (),
        environment: Mapping[str, str] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.options = options
        plan, self._borrowed = selected(plan, options.select) if options.select else (plan, frozenset[str]())
        plan, self.recall = recalled(plan, keeper, options)
        self.plan = planned(plan, options)
        self._prices = PriceList(self.plan.providers)
        check_prices(self.plan, self._prices)
        self._lanes: dict[ModelRef, Lane | None] = {}
        self._estimates = Estimates()
        self._batch_budget: Budget | None = None
        self._warmth: Warmth | None = None
        self.observers = Observers(observers)
        self.keeper = keeper
        self._said = options.plain(self.plan)
        self._borrows = (
            bool(self._borrowed) or options.cache or any(node.cache_s is not None for _, _, node in plan.walk())
        )
        """Whether answers of other runs may be taken."""
        self._secrets = Secrets()
        self._environment = os.environ if environment is None else environment
        self._functions = _functions(self.plan, options)
        self._readers = readers_of(self.plan)
        self._check_surroundings()
        self._tools = Tools(self.plan, simulate=options.simulate, fill=self._filled, redact=self._secrets.redact)
        self._codes = {key: _code(key) for key in (*self._functions, *_tool_functions(self.plan))} if keeper else {}
        self._recordings = None if options.replay is None else Recordings(options.replay)
        self._providers: dict[str, Provider] = {}
        self._simulator = self._played(SimulatedProvider(seed=options.seed)) if options.simulate else None
        self._shut: dict[str, Failure] = {}

    @property
    def unused_recordings(self) -> list[str]:
        """The files of `replay` that nothing has asked for."""
        return [] if self._recordings is None else self._recordings.unused()

    def bound_batch(self, spent: Amount) -> Budget | None:
        """What all rows together may spend, where the command line says so; *spent* is gone already."""
        plan = with_budget(replace(self.plan, budget=None), self.options.budget)
        self._batch_budget = budget_of(plan.budget, spent)
        check_prices(plan, self._prices)
        return self._batch_budget

    def lane(self, model: ModelRef) -> Lane | None:
        """The limits of *model*, which all calls to it share; None where it has none."""
        if model not in self._lanes:
            self._lanes[model] = self._make_lane(model)
        return self._lanes[model]

    def _make_lane(self, model: ModelRef) -> Lane | None:
        if self._recordings is not None:
            return None
        spec = self.plan.providers.get(model.provider) or ProviderSpec()
        own = spec.models.get(model.name)
        told = spec if own is None else own.model_copy(update=_unsaid(spec, own))
        quotas = Quotas(
            told.rpm,
            told.tpm,
            told.input_tpm,
            told.output_tpm,
            told.concurrency,
            told.headroom or DEFAULT_HEADROOM,
            told.burst,
            MINUTE_S * self.options.time_scale,
        )
        plays = self.options.simulate or (spec.type or model.provider) == registry.SIMULATED
        if plays and not quotas.says_anything:
            return None
        return Lane(quotas, learns=not plays)

    @asynccontextmanager
    async def open(self, slots: Slots, *, rows: int = 1) -> AsyncIterator[None]:
        """While it lasts, runs take place, at most *rows* at once; at its end everything is written and closed."""
        self.slots = slots
        self._retries = RetryBudget(sum(1 for _ in self.plan.walk()) * rows)
        http = SharedHttp(self.plan.concurrency)
        self._http, self._programs = HttpClient(self.plan.concurrency), Programs()
        try:
            self._make_providers(self._providers, http)
            self._tools.start()
            yield
        finally:
            if self.keeper is not None:
                self.keeper.end()
            open_: list[_Closes] = [self._programs, self._tools, *self._providers.values(), http, self._http]
            for each in open_:
                try:
                    await each.aclose()
                except Exception as error:  # noqa: BLE001 - a provider's bug must not lose a finished run
                    _LOG.warning("a provider could not be closed: %s: %s", type(error).__name__, error)

    def run_of(
        self,
        run_id: str,
        inputs: Mapping[str, Any],
        *,
        record: RunRecord | None = None,
        batch: tuple[str, int] | None = None,
    ) -> Run:
        """The run *run_id* on *inputs*: a new one, or that of *record*, which goes on; or a row of a *batch*."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        run = Run(
            id=run_id,
            plan=self.plan,
            inputs=inputs,
            providers=self._providers,
            functions=self._functions,
            simulator=self._simulator,
            governor=self._governor(),
            lanes=self.lane,
            emit=self.observers,
            redact=self._secrets.redact,
            now=_clock(),
            started=now if record is None else record.started,
            stream=self.options.stream,
            recall=self.recall,
            readers=self._readers,
            toolbox=self._box,
            environment=self._filled,
            http=self._http,
            programs=self._programs,
            replays=self._recordings is not None,
            codes=self._codes,
            prices=self._prices,
            estimates=self._estimates,
            budget=budget_of(self.plan.budget, NOTHING if record is None else record.charged, self._batch_budget),
        )
        if self.keeper is not None:
            self._keep(run, self.keeper, record, batch)
        return run

    async def _box(self, tooling: Tooling, plays: bool) -> Toolbox:  # noqa: FBT001 - as the engine calls it
        return await self._tools.box(tooling, plays=plays)

    def _filled(self, text: str) -> str:
        """*text* of the file with `${NAME}` filled in from the environment."""
        return filled(text, self._environment, self._secrets)

    def _check_surroundings(self) -> None:
        """Raise UsageError where a variable is not set, or a program is not there, that a node will need."""
        for name, plan, node in self.plan.walk():
            if self.options.simulate and node.simulated is not False:
                continue
            for choice in node.choices:
                work, place = choice.work, f"nodes.{name}"
                if isinstance(work, HttpWork):
                    headers = {key: template.text for key, template in work.headers.items()}
                    expand(headers, f"{place}.http.headers", self._environment, self._secrets)
                elif isinstance(work, CommandWork):
                    env = {key: template.text for key, template in work.env.items()}
                    expand(env, f"{place}.env", self._environment, self._secrets)
                    check_program(name, work, plan.path.parent)

    def _governor(self) -> Governor:
        """The door for one run, to what all runs here share."""
        chance = Random()  # noqa: S311 - no secret in it
        governor = Governor(self.slots, chance, self._retries, self._shut)
        governor.warmth = self._warmth = self._warmth or governor.warmth
        return governor

    def _keep(self, run: Run, keeper: Keeper, record: RunRecord | None, batch: tuple[str, int] | None) -> None:
        """Write the run to its store, and take from there what is there already."""
        options = self.options
        identity = Identity(
            id=run.id,
            pipeline=keeper.pipeline,
            started=run.started,
            text=self.plan.source,
            inputs=run.inputs,
            options=self._said,
            batch=None if batch is None else batch[0],
            row=None if batch is None else batch[1],
        )
        run.log = keeper.begin(identity, self._secrets.redact_json, record, simulated=not options.real)
        if record is not None or self._borrows:
            run.reuse = Reuse(
                self.plan,
                record,
                keeper.history,
                borrowed=self._borrowed,
                repeat=self._meant(options.repeat, record),
                skip=self._meant(options.skip, record),
                cache=options.cache,
                clean=self._secrets.redact_json,
            )

    def _meant(self, nodes: frozenset[str], record: RunRecord | None) -> frozenset[str]:
        """Those of *nodes* that are meant for the run of *record*."""
        known = {} if record is None else record.nodes
        doubtful = {name for name in nodes if name in known and known[name].in_doubt}
        return (nodes - self.options.doubtful) | doubtful

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
        plan = self.plan
        real = (each for each in plan.walk() if not (self.options.simulate and each[2].simulated is not False))
        return sorted(
            {model.provider for _, within, node in real for model in within.models_of(node, degrades=plan.degrades)}
        )

    def _provider(self, name: str, http: SharedHttp) -> Provider:
        spec = self.plan.providers.get(name) or ProviderSpec()
        kind = spec.type or name
        if kind == registry.SIMULATED:
            return SimulatedProvider(name, self.options.seed, stream=spec.stream)
        return registry.create(settings_of(name, spec, Surroundings(http, self._secrets, self._environment)))


def filled(text: str, environment: Mapping[str, str], secrets: Secrets) -> str:
    """*text* of a pipeline's file with `${NAME}` filled in; raises UsageError where one is not set."""
    return str(expand(text, "the pipeline", environment, secrets))


def _unsaid(spec: RateSpec, own: RateSpec) -> dict[str, Any]:
    """What a provider says of its rates and the *own* entry of a model does not."""
    return {name: getattr(spec, name) for name in RateSpec.model_fields if name not in own.model_fields_set}


def _functions(plan: Plan, options: Options) -> dict[tuple[str, str], Callable[..., Any]]:
    """Every function that a node of this run may call, by what tells it apart."""
    found: dict[tuple[str, str], Callable[..., Any]] = {}
    for name, _, node in plan.walk():
        for choice in node.choices:
            if isinstance(choice.work, CallWork) and not (options.simulate and node.simulated):
                found[choice.work.key] = _function(name, choice.work, found.get(choice.work.key))
    return found


def _tool_functions(plan: Plan) -> set[tuple[str, str]]:
    """The functions that are tools of a node."""
    works = (choice.work for _, _, node in plan.walk() for choice in node.choices)
    toolings = (work.tooling for work in works if isinstance(work, PromptWork) and work.tooling is not None)
    return {tool.key for tooling in toolings for tool in tooling.tools if tool.mcp is None}


def _function(node: str, work: CallWork, known: Callable[..., Any] | None) -> Callable[..., Any]:
    """The function that *work* calls, with arguments that fit; *known* is what another node found it to be."""
    try:
        function = known or function_in(load_module(work.module, work.folder), work.function)
    except (Exception, SystemExit) as error:
        raise UsageError(f"node `{node}` cannot call {work.name}: {type(error).__name__}: {error}") from error
    problem = check_arguments(function, work.arguments)
    if problem is not None:
        raise UsageError(f"node `{node}` cannot call {work.name}: {problem}")
    return function


def _code(key: tuple[str, str]) -> str:
    folder, name = key
    module, _, function = name.partition(":")
    return code_of(load_module(module, Path(folder)), function)


def _clock() -> Callable[[], float]:
    """Seconds since now, on the clock of the event loop."""
    now = time.monotonic
    start = now()
    return lambda: now() - start
