"""A Jinja environment in which a template can neither escape, nor run forever, nor fill the memory.

Everything a template does is metered: each loop step, each call, filter and operator, by the size of
what goes in and comes out. Jinja's own sandbox blocks attributes; it bounds neither time nor memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 1_000_000
"""Loop steps and elements touched, in one rendering."""
MAX_TEXT = 16 * 2**20
"""Characters of the final and of each intermediate text, and elements of each list."""
MAX_BITS = 10_000
"""Bits of an integer."""

_WIDTHS = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice", "to_bytes"}
)
"""Calls and filters of which an integer argument alone decides the size of the result."""
_FORMAT_WIDTH = re.compile(r"\d{5,}|%[^%a-zA-Z]*\*|\{[^{}]*\{")


_MAPPING_METHODS = frozenset({"items", "keys", "values", "get"})


_WALKED_A_STEP = 2
"""How many values are looked into for the price of one loop step."""


class BoundsError(SecurityError):
    """A template passed one of the bounds of this file."""


class _Meter:
    """What one rendering has used so far."""

    __slots__ = ("steps", "text")

    def __init__(self) -> None:
        self.steps = 0
        self.text = 0

    def charge(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise BoundsError(f"the template takes more than {MAX_STEPS:,} steps")

    def loop(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.charge(1)
            yield item

    def walk(self, value: Any) -> None:
        """Charge for every value inside *value*: lists that share parts print much longer than they are."""
        if not isinstance(value, (Mapping, list, tuple)):
            return
        waiting, seen = [value], 0
        while waiting:
            each = waiting.pop()
            if isinstance(each, Mapping):
                waiting.extend(each.values())
            elif isinstance(each, (list, tuple)):
                waiting.extend(each)
            seen += 1
            if seen % _WALKED_A_STEP == 0:
                self.charge(1)

    def check(self, value: Any) -> Any:
        """*value*, charged for its size; raises BoundsError where it is too large."""
        if isinstance(value, str):
            _bound(len(value))
            self.charge(1 + len(value) // 1000)
        elif isinstance(value, (list, tuple, dict, range)):
            _bound(len(value))
            self.charge(1 + len(value))
        elif isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise BoundsError("the template makes a number that is too large")
        elif isinstance(value, Iterator):
            return self.loop(value)
        return value


_meter: ContextVar[_Meter] = ContextVar("meter")


@contextmanager
def metered() -> Iterator[None]:
    """A fresh allowance for one rendering."""
    token = _meter.set(_Meter())
    try:
        yield
    finally:
        _meter.reset(token)


def to_text(value: Any) -> Any:
    """What `{{ value }}` prints: text as it is, mappings, lists and booleans as JSON; null is an error."""
    if isinstance(value, str):
        return value
    if value is None:
        raise jinja2.UndefinedError("this value is null; `| default('...', true)` says what to print")
    if isinstance(value, Iterator):
        value = list(value)
    if isinstance(value, (Mapping, list, tuple, bool)):
        if (meter := _meter.get(None)) is not None:
            meter.walk(value)
        return json.dumps(value, ensure_ascii=False)
    return value


def _finalize(value: Any) -> Any:
    if isinstance(value, jinja2.Undefined):
        return value
    meter = _meter.get(None)
    text = to_text(value)
    if meter is not None:
        meter.text += len(text) if isinstance(text, str) else 32
        _bound(meter.text)
    return text


class View(dict[str, Any]):
    """A mapping that templates see, which knows why something is not in it."""

    __slots__ = ("absent", "name")

    def __init__(self, name: str, present: Mapping[str, Any], absent: Mapping[str, str] | None = None) -> None:
        super().__init__(present)
        self.name = name
        self.absent = absent or {}

    def why(self, key: str) -> str:
        return self.absent.get(key) or f"{self.name} has no `{key}`"


class Environment(ImmutableSandboxedEnvironment):
    """The environment that every template of a pipeline is compiled in."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "//", "-", "/"})

    def __init__(self) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_finalize,
            autoescape=False,
        )
        del self.globals["lipsum"]
        del self.filters["random"]
        for name, function in list(self.filters.items()):
            self.filters[name] = _bounded_filter(name, function)
        self.filters["bounded_loop"] = lambda items: _meter.get().loop(items)
        self.filters["bounded_concat"] = _concat
        self.filters["bounded_value"] = _walked
        for name, test in list(self.tests.items()):
            self.tests[name] = _bounded_test(cast(Callable[..., Any], test))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A dot on a mapping looks up the key first and a method only if there is none."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, View) and attribute not in _MAPPING_METHODS:
            return self.undefined(obj.why(attribute))
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, View) and argument not in obj:
            return self.undefined(obj.why(str(argument)))
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _walked(left)
        _walked(right)
        if operator == "*":
            _bound(_product(left, right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _bound_bits(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return _meter.get().check(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if getattr(value, "__name__", "") in {"format", "format_map"}:
            _check_format(str(value.__self__))
        return super().wrap_str_format(value)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        name = getattr(obj, "__name__", "")
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, (str, bytes, int)):
            _check_arguments(name, owner, args, kwargs)
        _walked([owner if isinstance(owner, (list, tuple, Mapping)) else None, args, kwargs])
        result = super().call(context, obj, *args, **kwargs)
        return _meter.get().check(result)

    def compile_bounded(self, tree: nodes.Template) -> jinja2.Template:
        """*tree* compiled, with every loop, concatenation and comparison metered. *tree* is changed."""
        return self.from_string(_Metering().visit(tree))


class _Metering(NodeTransformer):
    """Sends through metered filters what Jinja compiles to bare Python."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the visitor's way to name
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "bounded_loop")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "bounded_concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "bounded_value")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "bounded_value")
        return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _walked(value: Any) -> Any:
    """*value*, charged for all that is inside it."""
    _meter.get().walk(value)
    return value


def _concat(parts: Sequence[Any]) -> Any:
    text = [str(to_text(part)) for part in parts]
    _bound(sum(map(len, text)))
    return _meter.get().check("".join(text))


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """*function* with its arguments checked before and its result after; Jinja's pass-marks are kept."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    def bounded(*args: Any, **kwargs: Any) -> Any:
        given = args[skipped:]
        if given:
            if name == "join" and isinstance(given[0], Iterator):
                given = (list(_meter.get().loop(given[0])), *given[1:])
                args = (*args[:skipped], *given)
            _meter.get().walk(given[0])
            _check_arguments(name, given[0], given[1:], kwargs)
        return _meter.get().check(function(*args, **kwargs))

    if skipped:
        bounded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return bounded


def _bounded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _walked(args[-2:])
        return function(*args, **kwargs)

    if hasattr(function, "jinja_pass_arg"):
        bounded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return bounded


def _check_arguments(name: str, subject: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse before the call what its result's size would show too late."""
    given = [*args, *kwargs.values()]
    if name in _WIDTHS:
        for value in given:
            if isinstance(value, int):
                _bound(value * max(1, str(subject).count("\n")) if name == "indent" else value)
            elif isinstance(value, str) and name in {"indent", "wordwrap"}:
                _bound(len(value) * (1 + len(str(subject))))
    elif name == "replace":
        longest = max((len(str(value)) for value in given if not isinstance(value, int)), default=0)
        _bound((1 + len(str(subject))) * longest if longest > 1 else 0)
    elif name == "translate":
        table = given[0] if given and isinstance(given[0], Mapping) else {}
        _bound(len(str(subject)) * max((len(v) for v in table.values() if isinstance(v, str)), default=0))
    elif name == "join":
        items, separators = (subject, given) if not isinstance(subject, str) else (given[0] if given else (), [subject])
        if isinstance(items, (list, tuple, str, dict)):
            width = max((len(value) for value in separators if isinstance(value, str)), default=0)
            _bound(len(items) * width + sum(len(item) for item in items if isinstance(item, str)))
    elif name in {"format", "format_map"}:
        _check_format(str(subject))


def _check_format(pattern: str) -> None:
    if _FORMAT_WIDTH.search(pattern):
        raise BoundsError("a width in a format is too large")


def _product(left: Any, right: Any) -> int:
    for sized, count in ((left, right), (right, left)):
        if isinstance(sized, (str, list, tuple)) and isinstance(count, int):
            return len(sized) * max(0, count)
    return 0


def _bound(size: int) -> None:
    if size > MAX_TEXT:
        raise BoundsError(f"the template makes a text or list of more than {MAX_TEXT:,} characters or elements")


def _bound_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise BoundsError("the template makes a number that is too large")


@cache
def environment() -> Environment:
    """The one environment, made when the first template needs it."""
    return Environment()
