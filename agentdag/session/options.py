"""How a run differs from what its file says, and what a plan is under these options."""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentdag.calls import Usage
from agentdag.errors import SpecError, UsageError
from agentdag.language.findings import did_you_mean
from agentdag.language.scalars import MODEL_NAME
from agentdag.limits.policy import Recall, no_past
from agentdag.plan.compile import Compiled, compile_file
from agentdag.plan.nodes import model_ref
from agentdag.plan.plan import Plan
from agentdag.plan.preview import Preview, preview
from agentdag.plan.values import FileText, resolve_inputs
from agentdag.plan.work import ModelRef
from agentdag.providers import prices, registry
from agentdag.session.money import PriceList, check_prices, with_budget
from agentdag.store.history import Pace
from agentdag.store.keeper import Keeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run differs from what its file says; None leaves the file's word.

    With *simulate* the built-in simulator answers for everything that would leave the machine, every
    duration in the file times *time_scale*. *seed* makes the simulator's chance repeatable. *select* names the nodes
    to run (`a`, `+a`, `a+`); what they read besides is taken from earlier runs. With *cache* every node's answer is
    looked up among those of earlier runs. *repeat* names nodes that run whatever is there of them in a run that goes
    on, *skip* those that do not run any more; of both, the *doubtful* are meant only for runs in which nobody knows
    what became of them. Each exchange with a model is written to the folder *record*, or answered out of the folder
    *replay*, *replay_pace* times as slowly as it was.
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
    doubtful: frozenset[str] = frozenset()
    record: Path | None = None
    replay: Path | None = None
    replay_pace: float = 0.0
    budget: Mapping[str, str] = field(default_factory=dict)
    """`cost` in USD and `tokens`, as written, where they are not those of the file; of a batch, for all its rows."""
    tiers: Mapping[str, str] = field(default_factory=dict)
    """Other models for tiers, by name; `*` stands for every tier and model."""
    batch: Mapping[str, Any] | None = None
    """Of a batch, what is recorded so that it can go on: where its rows and results are."""

    @property
    def real(self) -> bool:
        """Whether its latencies tell anything of later runs."""
        return not self.simulate and self.replay is None

    def plain(self, plan: Plan) -> dict[str, Any]:
        """What is recorded of a run of *plan*, so that it can go on."""
        return {
            "concurrency": self.concurrency,
            "schedule": self.schedule,
            "simulate": self.simulate,
            "time_scale": self.time_scale,
            "seed": self.seed,
            "cache": self.cache,
            "select": list(self.select),
            "allowed": [str(folder.resolve()) for folder in plan.allowed],
            "replay": None if self.replay is None else str(self.replay.resolve()),
            "replay_pace": self.replay_pace,
            "path": str(plan.path if str(plan.path) == "-" else plan.path.resolve()),
            "folder": str(Path.cwd()),
            "batch": self.batch,
            "budget": dict(self.budget),
            "tiers": dict(self.tiers),
        }

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Options:
        """The options of a recorded run."""
        return cls(
            concurrency=said["concurrency"],
            schedule=said["schedule"],
            simulate=said["simulate"],
            time_scale=said["time_scale"],
            seed=said["seed"],
            cache=said["cache"],
            select=tuple(said["select"]),
            replay=None if said["replay"] is None else Path(said["replay"]),
            replay_pace=said["replay_pace"],
            batch=said["batch"],
            budget=said.get("budget", {}),
            tiers=said.get("tiers", {}),
        )


def compile_pipeline(path: str | Path, *, allowed: tuple[Path, ...] = (), lint: bool = False) -> Compiled:
    """The pipeline at *path* with everything that was found in it; with *lint* warnings too."""
    types = registry.provider_types()
    return compile_file(Path(path), provider_types=types, allowed=allowed, lint=prices if lint else None)


def load(path: str | Path, *, allowed: tuple[Path, ...] = ()) -> Plan:
    """The pipeline at *path*, compiled. Raises SpecError with all findings; makes no call."""
    compiled = compile_pipeline(path, allowed=allowed)
    if compiled.plan is None:
        raise SpecError(compiled.findings)
    return compiled.plan


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
    if options.batch is None:
        plan = with_budget(plan, options.budget)
    return _on_tiers(plan, options.tiers).scaled(options.time_scale)


def _on_tiers(plan: Plan, said: Mapping[str, str]) -> Plan:
    """*plan* with other models for its tiers; raises UsageError where one does not exist."""
    if not said:
        return plan
    tiers = [tier.name for tier in plan.tiers]
    known = {*plan.providers, *registry.provider_types()}
    for name, model in said.items():
        if name != "*" and name not in tiers:
            hint = did_you_mean(name, tiers) or (f"its tiers are {', '.join(tiers)}" if tiers else "it has no tiers")
            raise UsageError(f"--tier {name}={model}: there is no tier `{name}`", hint=hint)
        if not MODEL_NAME.fullmatch(model):
            raise UsageError(f"--tier {name}={model} names no model", hint="write --tier NAME=provider/model")
        provider = model.partition("/")[0]
        if provider not in known:
            hint = did_you_mean(provider, known) or f"known are {', '.join(sorted(known))}"
            raise UsageError(f"--tier {name}={model}: there is no provider `{provider}`", hint=hint)
    return plan.on_models({name: model_ref(model) for name, model in said.items()})


def recalled(plan: Plan, keeper: Keeper | None, options: Options) -> tuple[Plan, Recall]:
    """*plan* with the durations that are recorded of its nodes, and what is recorded of their past.

    A simulated run goes by its file alone.
    """
    if keeper is None or not options.real:
        return plan, no_past
    paces = keeper.history.paces(keeper.pipeline, len(plan.nodes))
    pasts = {node: pace.past for node, pace in paces.items()}
    return lasting(plan, paces), pasts.get


def lasting(plan: Plan, paces: Mapping[str, Pace]) -> Plan:
    """*plan* if each node takes as long as half of the times before."""
    return plan.lasting({node: pace.p50_s for node, pace in paces.items() if pace.p50_s is not None})


def foreseen(
    plan: Plan,
    inputs: Mapping[str, Any] | None = None,
    options: Options | None = None,
    *,
    unknown: Collection[str] = (),
) -> Preview:
    """What a run of *plan* would do and cost; makes no call. The inputs in *unknown* are no more than place-holders.

    Raises UsageError where an input is missing.
    """
    options = options or Options()
    plan = planned(plan, options)
    names = {"id": run_id(), "started": datetime.now(UTC).isoformat(timespec="milliseconds")}
    prices = PriceList(plan.providers)
    check_prices(plan, prices)

    def cost(model: ModelRef, usage: Usage, tier: str | None) -> Decimal | None:
        known = prices(model)
        return None if known is None else known.of(usage, tier)

    return preview(plan, resolve_inputs(plan, inputs or {}), cost=cost, names=names, unknown=unknown)


def costs_of(plan: Plan) -> Preview | None:
    """What a run of *plan* would cost on its default inputs, or empty ones; None where nobody knows."""
    empty: dict[str, Any] = {"integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
    given = {
        name: FileText("") if spec.type == "file" else (spec.enum or [empty.get(spec.type, "")])[0]
        for name, spec in plan.inputs.items()
        if spec.required
    }
    try:
        return foreseen(plan, given, unknown=given)
    except UsageError:
        return None


def run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
