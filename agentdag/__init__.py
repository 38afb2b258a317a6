"""Run pipelines of LLM agents declared in YAML: in parallel, along the critical path.

    plan = agentdag.load("pipelines/due_diligence.yaml")
    result = agentdag.run(plan, {"company": "Northwind"})
    result.outputs["memo"]

Names are imported when they are first used, so that `agentdag --help` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentdag._version import __version__

if TYPE_CHECKING:
    from agentdag.calls import OnDelta, Provider, Reply, Request, Sampling, Usage
    from agentdag.errors import (
        AgentdagError,
        CallError,
        ErrorKind,
        Failure,
        FinalError,
        Finding,
        QueueFull,
        RetryableError,
        Span,
        SpecError,
        StoreError,
        UsageError,
        call_error,
    )
    from agentdag.events import (
        BarrierOpened,
        BudgetLow,
        Event,
        NodeProgress,
        NodeResumed,
        NodeRetrying,
        NodeSettled,
        NodeStarted,
        NodeWaiting,
        Observer,
        RunFinished,
        RunProgress,
        RunStarted,
        RunStatus,
        Status,
        event_json,
    )
    from agentdag.limits.pool import AgentPool, PoolStatistics, Settled
    from agentdag.plan.plan import Plan
    from agentdag.providers.settings import Settings
    from agentdag.session import Agent, Options, RunResult, aresume, arun, load, resume, run

_HOMES = ("calls", "errors", "events", "limits.pool", "plan.plan", "providers.settings", "session")
"""The modules that the names below come from, cheapest first."""

__all__ = [
    "Agent",
    "AgentPool",
    "AgentdagError",
    "BarrierOpened",
    "BudgetLow",
    "CallError",
    "ErrorKind",
    "Event",
    "Failure",
    "FinalError",
    "Finding",
    "NodeProgress",
    "NodeResumed",
    "NodeRetrying",
    "NodeSettled",
    "NodeStarted",
    "NodeWaiting",
    "Observer",
    "OnDelta",
    "Options",
    "Plan",
    "PoolStatistics",
    "Provider",
    "QueueFull",
    "Reply",
    "Request",
    "RetryableError",
    "RunFinished",
    "RunProgress",
    "RunResult",
    "RunStarted",
    "RunStatus",
    "Sampling",
    "Settings",
    "Settled",
    "Span",
    "SpecError",
    "Status",
    "StoreError",
    "Usage",
    "UsageError",
    "__version__",
    "aresume",
    "arun",
    "call_error",
    "event_json",
    "load",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"agentdag.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
