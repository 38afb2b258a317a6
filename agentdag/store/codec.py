"""Events as JSON that gives them back, to the last digit: what stands in the body of an entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, get_args

from pydantic_core import to_json

from agentdag.calls import Amount, Exchange, Usage
from agentdag.errors import Failure
from agentdag.events import BarrierOpened, BudgetLeft, Event, NodeSettled, Reason, RunFinished, RunStatus, Status


def encoded(event: Event) -> str:
    """*event* as a JSON object of its fields and its `type`."""
    try:
        body = to_json(event).decode()
    except ValueError:  # a lone surrogate, or nested very deeply
        body = json.dumps({name: getattr(event, name) for name in event.__slots__}, default=_plain)
    return f'{{"type":"{event.type}",{body[1:]}'


def decoded(text: str) -> Event:
    """The event that was encoded as *text*. Raises ValueError, KeyError or TypeError where it is none."""
    plain = json.loads(text)
    kind = _KINDS[plain.pop("type")]
    for name, read in _READ.items():
        if plain.get(name) is not None:
            plain[name] = read(plain[name])
    if kind is NodeSettled:
        plain["status"] = Status(plain["status"])
    elif kind is RunFinished:
        plain["status"] = RunStatus(plain["status"])
        plain["nodes"] = {Status(name): number for name, number in plain["nodes"].items()}
    elif kind is BarrierOpened:
        plain["reason"] = Reason(plain["reason"])
    event: Event = kind(**plain)
    return event


def _plain(value: Usage | Exchange | Failure | Amount | BudgetLeft | Decimal) -> Any:
    return format(value, "f") if isinstance(value, Decimal) else value.plain()


_KINDS: dict[str, Any] = {kind.type: kind for kind in get_args(Event)}
_READ: dict[str, Callable[[Any], Any]] = {
    "usage": Usage.of,
    "error": Failure.of,
    "fallback_error": Failure.of,
    "reserved": Amount.of,
    "charged": Amount.of,
    "budget_left": BudgetLeft.of,
    "exchange": Exchange.of,
    "top_tier_usd": Decimal,
    "cache_saved_usd": Decimal,
    **dict.fromkeys(("arrived", "missing", "late", "pending", "degraded", "actions"), tuple),
}
"""The fields that JSON does not hold as they are."""
