"""A Jinja environment in which a template can neither escape, nor run forever, nor fill the memory.

Jinja's own sandbox blocks attributes; it bounds neither time nor memory. Here only what is listed can be
called, and whatever makes, compares or walks values is metered by their size. No list can be made that
stands for more values than a rendering has steps, so nothing that is done with one takes longer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 1_000_000
"""Loop steps and values touched, in one rendering."""
MAX_TEXT = 4 * 2**20
"""Characters of the final and of each intermediate text."""
MAX_LETTERS = 100_000
"""Characters of a text that is taken apart letter by letter."""
MAX_BITS = 10_000
"""Bits of an integer."""
MAX_WIDTH = 9_999
"""Columns that anything is padded or indented to."""
CHARACTERS_A_STEP = 100
CALL_STEPS = 10

TEXT_FILTERS = frozenset(
    {"upper", "lower", "capitalize", "title", "trim", "replace", "truncate", "default", "d", "length", "count"}
    | {"string", "wordcount", "indent", "wordwrap", "center", "format", "tojson", "urlencode", "int", "float"}
)
LIST_FILTERS = frozenset(
    {"join", "first", "last", "list", "sort", "unique", "reverse", "map", "select", "reject", "selectattr"}
    | {"rejectattr", "sum", "min", "max", "groupby", "batch", "slice", "dictsort", "items", "attr", "abs", "round"}
    | {"filesizeformat"}
)
TEXT_METHODS = frozenset(
    {"upper", "lower", "strip", "lstrip", "rstrip", "title", "capitalize", "split", "splitlines", "startswith"}
    | {"endswith", "replace", "join", "removeprefix", "removesuffix", "isdigit", "isalpha", "isnumeric", "count"}
    | {"find", "zfill", "ljust", "rjust", "center"}
)
MAPPING_METHODS = frozenset({"items", "keys", "values", "get"})
LIST_METHODS = frozenset({"index", "count"})
_PADDING = frozenset({"center", "ljust", "rjust", "zfill"})
_WIDE_FORMAT = re.compile(r"\d{4,}|%[^%a-zA-Z]*\*|\{[^{}]*\{")


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

    def measure(self, value: Any) -> Any:
        """*value*, charged for everything inside it; raises BoundsError where it is too large."""
        if isinstance(value, str):
            bound(len(value))
            self.charge(1 + len(value) // CHARACTERS_A_STEP)
        elif isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                raise BoundsError("the template makes a number that is too large")
        elif isinstance(value, range):
            self.charge(len(value))
        elif isinstance(value, Iterator):
            return self.loop(value)
        elif isinstance(value, Collection) and not isinstance(value, jinja2.Undefined):
            self._walk(value)
        return value

    def _walk(self, value: Collection[Any]) -> None:
        waiting: list[Any] = [value]
        while waiting:
            each = waiting.pop()
            if isinstance(each, str):
                self.charge(1 + len(each) // CHARACTERS_A_STEP)
            elif isinstance(each, Mapping):
                waiting.extend(each.values())
                self.charge(1 + len(each))
            elif isinstance(each, Collection) and not isinstance(each, jinja2.Undefined):
                self.charge(1 + len(each))
                waiting.extend(each)
            else:
                self.charge(1)


_meter: ContextVar[_Meter] = ContextVar("meter")


@contextmanager
def metered() -> Iterator[None]:
    """A fresh allowance for one rendering."""
    token = _meter.set(_Meter())
    try:
        yield
    finally:
        _meter.reset(token)


def bound(size: int) -> None:
    """Raise BoundsError where a text of *size* characters would be too long."""
    if size > MAX_TEXT:
        raise BoundsError(f"the template makes a text of more than {MAX_TEXT:,} characters")


def _measured(value: Any) -> Any:
    return _meter.get().measure(value)


def to_text(value: Any) -> str:
    """What `{{ value }}` prints: text as it is, mappings, lists and booleans as JSON; null is an error."""
    if isinstance(value, str):
        return value
    if value is None:
        raise jinja2.UndefinedError("this value is null; `| default('...', true)` says what to print")
    plain = to_plain(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, (dict, list, bool)) else str(plain)


def to_plain(value: Any) -> Any:
    """*value* as what JSON can hold; raises jinja2.UndefinedError where it is something else."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise jinja2.UndefinedError("this number is too large")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise jinja2.UndefinedError(f"{value} is no number that JSON can hold")
        return value
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else to_text(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (Collection, Iterator)) and not isinstance(value, (bytes, jinja2.Undefined)):
        return [to_plain(item) for item in value]
    if isinstance(value, jinja2.Undefined):
        value._fail_with_undefined_error()  # noqa: SLF001 - the only way to raise an Undefined's own error
    raise jinja2.UndefinedError(f"this is {type(value).__name__}, which is no plain value")


@jinja2.pass_context
def _finalize(_context: Any, value: Any) -> Any:
    """Called on everything that is printed; takes the context so that nothing is printed at compile time."""
    if isinstance(value, jinja2.Undefined):
        return value
    text = to_text(_measured(value))
    meter = _meter.get()
    meter.text += len(text)
    bound(meter.text)
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
            optimized=False,
        )
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        known = self.filters
        self.filters = {name: _bounded_filter(name, known[name]) for name in sorted(TEXT_FILTERS | LIST_FILTERS)}
        self.filters["bounded_loop"] = lambda items: _meter.get().loop(items)
        self.filters["bounded_concat"] = _concat
        self.filters["bounded_value"] = _measured
        self.tests = {name: _bounded_test(cast(Callable[..., Any], test)) for name, test in self.tests.items()}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A dot on a mapping looks up the key first and a method only if there is none."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        if isinstance(obj, View) and attribute not in MAPPING_METHODS:
            return self.undefined(obj.why(attribute))
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, View) and isinstance(argument, str) and argument not in obj:
            return self.undefined(obj.why(argument))
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _measured(left)
        _measured(right)
        if operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * abs(right) > MAX_BITS:
                raise BoundsError("the template makes a number that is too large")
        elif operator == "%" and isinstance(left, str):
            _check_format(left, right if isinstance(right, tuple) else (right,))
        return _measured(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if getattr(value, "__name__", "") != "format" or not isinstance(getattr(value, "__self__", None), str):
            return None
        pattern, format_ = value.__self__, super().wrap_str_format(value)
        assert format_ is not None

        def bounded_format(*args: Any, **kwargs: Any) -> str:
            _check_format(pattern, [*args, *kwargs.values()])
            return format_(*args, **kwargs)

        return bounded_format

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _meter.get().charge(CALL_STEPS)
        if not isinstance(obj, (Macro, jinja2.Undefined)):
            self._check_callable(obj, args, kwargs)
        for value in (*args, *kwargs.values()):
            _measured(value)
        return _measured(super().call(context, obj, *args, **kwargs))

    def _check_callable(self, obj: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Refuse to call what is not listed at the top of this file."""
        if obj in self.globals.values() or getattr(obj, "__name__", "") == "bounded_format":
            return
        name, owner = getattr(obj, "__name__", type(obj).__name__), getattr(obj, "__self__", None)
        if isinstance(owner, LoopContext):
            return
        if isinstance(owner, Mapping) and name in MAPPING_METHODS:
            return
        if isinstance(owner, (list, tuple)) and name in LIST_METHODS:
            _measured(owner)
            return
        if isinstance(owner, str) and name in TEXT_METHODS:
            _measured(owner)
            _check_arguments(name, owner, args, kwargs)
            return
        raise SecurityError(f"`{name}` cannot be called in a template")

    def compile_bounded(self, tree: nodes.Template) -> jinja2.Template:
        """*tree* compiled, with everything metered that Jinja makes bare Python of. *tree* is changed."""
        return self.from_string(_Metering().visit(tree))


class _Metering(NodeTransformer):
    """Sends loops, literals, slices, comparisons and repeated text through the metered filters."""

    def __init__(self) -> None:
        self._repeated = 0
        """How many loops and macros are around."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the visitor's way to name
        node.iter = _filtered(self.visit(node.iter), "bounded_loop")
        return self._inside(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802
        return self._inside(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802
        return self._inside(node)

    def _inside(self, node: nodes.Node) -> nodes.Node:
        self._repeated += 1
        for field in ("body", "else_", "test", "defaults", "call"):
            part = getattr(node, field, None)
            if isinstance(part, nodes.Node):
                setattr(node, field, self.visit(part))
            elif isinstance(part, list):
                setattr(node, field, [self.visit(each) for each in part])
        self._repeated -= 1
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        if self._repeated:
            node.nodes = [
                _filtered(nodes.Const(part.data, lineno=part.lineno), "bounded_value")
                if isinstance(part, nodes.TemplateData)
                else part
                for part in node.nodes
            ]
        return self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "bounded_concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, "bounded_value")
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, "bounded_value")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        return _filtered(self.generic_visit(node), "bounded_value")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        return _filtered(self.generic_visit(node), "bounded_value")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return node if node.ctx == "store" else _filtered(node, "bounded_value")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "bounded_value") if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _concat(parts: Sequence[Any]) -> Any:
    text = [to_text(_measured(part)) for part in parts]
    bound(sum(map(len, text)))
    return _measured("".join(text))


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """*function* with its arguments checked before and its result after; Jinja's pass-marks are kept."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    def bounded(*args: Any, **kwargs: Any) -> Any:
        given = [_measured(value) for value in args[skipped:]]
        if given:
            if name == "join" and isinstance(given[0], (Iterator, range)):
                given[0] = list(given[0])
            if name in LIST_FILTERS and isinstance(given[0], str) and len(given[0]) > MAX_LETTERS:
                raise BoundsError(f"`{name}` takes a text of at most {MAX_LETTERS:,} characters apart")
            _check_arguments(name, given[0], given[1:], kwargs)
        for value in kwargs.values():
            _measured(value)
        return _measured(function(*args[:skipped], *given, **kwargs))

    if skipped:
        bounded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return bounded


def _bounded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    def bounded(*args: Any, **kwargs: Any) -> Any:
        return function(*args[:skipped], *(_measured(value) for value in args[skipped:]), **kwargs)

    if skipped:
        bounded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return bounded


def _check_arguments(name: str, subject: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse before the call what its result's size would show too late."""
    given = [*args, *kwargs.values()]
    numbers = [abs(value) for value in given if isinstance(value, int)]
    widest = max(numbers, default=0)
    text = subject if isinstance(subject, str) else ""
    longest = max((len(value) for value in given if isinstance(value, str)), default=0)
    if (name in _PADDING and widest > MAX_WIDTH) or (name in {"tojson", "round"} and widest > 30):
        raise BoundsError(f"`{name}` takes a smaller number than {widest:,}")
    match name:
        case "indent":
            bound(len(text) + (1 + len(text.splitlines())) * max(widest, longest, 4))
        case "wordwrap" if len(text) > MAX_LETTERS or longest > MAX_WIDTH:
            raise BoundsError("`wordwrap` takes a shorter text")
        case "replace":
            bound((1 + len(text)) * longest if longest > 1 else 0)
        case "join":
            items, separator = (subject, longest) if not text else (given[0] if given else (), len(text))
            if isinstance(items, Collection):
                bound(len(items) * separator + sum(len(item) for item in items if isinstance(item, str)))
            elif isinstance(items, Iterator):
                raise BoundsError("write `| join('...')`")
        case "format":
            _check_format(text, given)
        case "sum" if not all(isinstance(value, (int, float, str, type(None))) for value in given):
            raise BoundsError("`sum` adds numbers")
        case "batch" | "slice" if widest > MAX_LETTERS:
            raise BoundsError(f"`{name}` takes a smaller number than {widest:,}")


def _check_format(pattern: str, values: Iterable[Any]) -> None:
    """Bound what *pattern*, of either style, can make of *values*."""
    if _WIDE_FORMAT.search(pattern):
        raise BoundsError("a width in a format is too large")
    places = pattern.count("%") + pattern.count("{")
    longest = max((len(str(value)) for value in values), default=0)
    bound(len(pattern) + places * max(longest, 999))


def _check_product(left: Any, right: Any) -> None:
    for sized, times in ((left, right), (right, left)):
        if isinstance(sized, (str, list, tuple)) and isinstance(times, int):
            bound(len(sized) * max(0, times))
            if not isinstance(sized, str):
                _meter.get().charge(len(sized) * max(0, times))


@cache
def environment() -> Environment:
    """The one environment, made when the first template needs it."""
    return Environment()
