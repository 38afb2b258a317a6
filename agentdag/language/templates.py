"""Templates: what they read, found without running them, and what they give.

`{{ a.b.c }}` in plain text, which is most of what pipelines hold, never wakes Jinja; everything else
is read through its syntax tree. This file knows the names a template may use, and no plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta, nodes

from agentdag.language.findings import did_you_mean
from agentdag.language.sandbox import MAPPING_METHODS, bound, environment, metered, to_plain, to_text
from agentdag.language.scalars import describe
from agentdag.language.syntax import jinja_complaint

NAMES = {
    "inputs": "The run's inputs: `inputs.company`.",
    "nodes": "The nodes that this one depends on, by id: `nodes.parser.output`. To read one is to depend on it.",
    "needs": "The direct dependencies in order, for loops: `{% for name, node in needs.items() if node.ok %}`.",
    "missing": "The ids of those needs that have settled without a result, or came too late: `{% if missing %}`. "
    "Not under `outputs`.",
    "pending": "In a progressive join: the ids of those needs that are still to come.",
    "previous": "In a progressive join, and under `repeat`: the output of the pass before; none on the first.",
    "item": "Under `foreach`: the item of this instance; `as` gives it another name.",
    "index": "Under `foreach`: the number of the item, from 0.",
    "output": "Under `repeat.until`: the output of the pass that has just ended.",
    "run": "This run: `run.id`, and `run.started` in UTC.",
}
NODE_NAMES = frozenset({"inputs", "nodes", "needs", "missing", "run"})
"""What the templates of every node see."""
PASS_NAMES = NODE_NAMES | {"pending", "previous"}
"""What the templates of a progressive join see."""
OUTPUT_NAMES = frozenset({"inputs", "nodes", "run"})
"""What the templates under `outputs` see."""
MODEL_TEXT = frozenset({"nodes", "needs", "previous"})
"""The names behind which stands what a model may have written: it never becomes a program, a path or a header."""
NODE_ATTRIBUTES = {
    "ok": "Whether the node succeeded.",
    "status": "How it settled: succeeded, failed, timed_out, skipped, late or cancelled; pending while it is out.",
    "output": "Its answer: text, or the value of a function. Undefined where the node did not succeed.",
    "error": "None, or why it failed: `error.kind`, `error.message`.",
    "latency": "Seconds that its last attempt took.",
    "usage": "Tokens and money: `usage.input_tokens`, `usage.output_tokens`, `usage.cached_tokens`, `usage.cost_usd`.",
}
_FIELDS = {
    "error": ("kind", "message"),
    "usage": ("input_tokens", "output_tokens", "cached_tokens", "cost_usd"),
}
RUN_ATTRIBUTES = ("id", "started")

_SIMPLE = re.compile(r"\{\{\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)\s*\}\}", re.ASCII)
MAX_TOLD = 80
"""Letters of an expression that is told with what is wrong about it."""
_FOREIGN = {
    "input": "`inputs` holds the inputs",
    "node": "`nodes` holds the nodes",
    "env": "templates do not see the environment: pass the value as an input",
    "steps": "write `nodes.<id>.output`",
    "outputs": "write `nodes.<id>.output`",
    "output": "write `nodes.<id>.output`",
    "pending": "only a join with `barrier: progressive` has `pending`",
    "previous": "only a join with `barrier: progressive`, or a node with `repeat`, has `previous`",
    "item": "only a node with `foreach` has `item`",
    "index": "only a node with `foreach` has `index`",
}


class TemplateError(Exception):
    """A template that failed on the data of this run."""


@dataclass(frozen=True, slots=True)
class Read:
    """A path that a template reads, as `nodes`, (`parser`, `output`); `line` counts from 1 in the template."""

    root: str
    path: tuple[str, ...]
    line: int
    printed: bool = False
    """Whether this very value is printed, rather than a part of it used."""

    @property
    def text(self) -> str:
        """As it is most likely written: for finding it in the source."""
        return ".".join((self.root, *self.path))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a template; `needle` is the word to mark on `line`."""

    code: str
    message: str
    hint: str | None
    line: int
    needle: str = ""


class Template:
    """One template, read but not yet run.

    `reads` are all paths that could be found statically; `dynamic` says where `nodes` is used in a way
    that cannot be, and `loops` whether `needs` is used as a whole.
    """

    def __init__(self, text: str, names: frozenset[str]) -> None:
        self.text = text
        self.reads: tuple[Read, ...] = ()
        self.problems: tuple[Problem, ...] = ()
        self.dynamic: int | None = None
        self.loops: int | None = None
        self._parts: list[str | tuple[str, ...]] | None = _simple_parts(text, names)
        self._compiled: Callable[[Mapping[str, Any]], Any] | None = None
        self._native = False
        if self._parts is None:
            self._analyse(names)
        elif len(self._parts) > 1:
            self._read_parts(self._parts)

    def _read_parts(self, parts: list[str | tuple[str, ...]]) -> None:
        line, reads = 1, []
        for part in parts:
            if isinstance(part, str):
                line += part.count("\n")
            else:
                reads.append(Read(part[0], part[1:], line, printed=True))
        self.reads = tuple(reads)

    def _analyse(self, names: frozenset[str]) -> None:
        try:
            analysis = _Analysis(environment().parse(self.text), names)
        except jinja2.TemplateSyntaxError as error:
            told = jinja_complaint(error.message or "syntax error")
            self.problems = (Problem("AD301", told.message, told.hint, error.lineno, told.needle),)
            return
        except RecursionError:
            self.problems = (Problem("AD301", "this template is nested too deeply", "split it up", 1),)
            return
        except ValueError as error:  # a number of thousands of digits
            self.problems = (Problem("AD301", f"this template cannot be read: {error}", None, 1),)
            return
        self.reads = tuple(analysis.reads)
        self.problems = tuple(analysis.problems)
        self.dynamic, self.loops = analysis.dynamic, analysis.loops

    @property
    def is_expression(self) -> bool:
        """Whether it is one single expression, which gives a value, white space aside."""
        if self._parts is not None:
            texts = (part for part in self._parts if isinstance(part, str))
            return len(self._parts) == 3 and not any(part.strip() for part in texts)
        return not self.problems and _single_expression(environment().parse(self.text)) is not None

    @property
    def is_of_the_run(self) -> bool:
        """Whether what it gives is of one run alone: it reads `run`, or how long a node took."""
        if any(read.root == "run" or "latency" in read.path for read in self.reads):
            return True
        if self._parts is not None or "latency" not in self.text or self.problems:
            return False
        tree = environment().parse(self.text)
        attributes = {each.attr for each in tree.find_all(nodes.Getattr)}
        items = {each.arg.value for each in tree.find_all(nodes.Getitem) if isinstance(each.arg, nodes.Const)}
        return "latency" in attributes | items

    def render(self, names: Mapping[str, Any]) -> str:
        """The template's text under *names*; raises TemplateError."""
        if self._parts is None:
            return str(self._run(names, native=False))
        try:
            if len(self._parts) == 1:
                bound(len(self._parts[0]))
                return str(self._parts[0])
            parts = [part if isinstance(part, str) else _printed(part, names) for part in self._parts]
            bound(sum(map(len, parts)))
        except (jinja2.TemplateError, ValueError, RecursionError) as error:
            raise self._failed(_message(error)) from None
        return "".join(parts)

    def value(self, names: Mapping[str, Any]) -> Any:
        """As `render`, but a template that is one single expression gives the value itself."""
        if self._parts is None:
            return self._run(names, native=True)
        paths = [part for part in self._parts if not isinstance(part, str)]
        if len(paths) == 1 and not any(part.strip() for part in self._parts if isinstance(part, str)):
            try:
                return to_plain(_lookup(paths[0], names))
            except (jinja2.TemplateError, RecursionError) as error:
                raise self._failed(_message(error)) from None
        return self.render(names)

    def holds(self, names: Mapping[str, Any]) -> bool:
        """What a condition gives; raises TemplateError, also where that is neither true nor false."""
        held = self.value(names)
        if not isinstance(held, bool):
            raise self._failed(f"this gives {describe(held)}, and true or false is due")
        return held

    def _failed(self, message: str) -> TemplateError:
        """That *message* is why it failed; a short expression is told too."""
        text = self.text.strip()
        short = text.startswith("{{") and len(text) <= MAX_TOLD and "\n" not in text
        return TemplateError(f"{text}: {message}" if short and not message.startswith("{{") else message)

    def _run(self, names: Mapping[str, Any], *, native: bool) -> Any:
        try:
            if self._compiled is None or self._native != native:
                self._compiled, self._native = _compile(self.text, native=native), native
            with metered():
                return self._compiled(names)
        except (jinja2.TemplateError, RecursionError) as error:
            raise self._failed(_message(error)) from None
        except Exception as error:  # noqa: BLE001 - a template may make any expression fail: 1/0, int('x'), ...
            raise self._failed(f"{type(error).__name__}: {error}") from None


def _compile(text: str, *, native: bool) -> Callable[[Mapping[str, Any]], Any]:
    tree = environment().parse(text)
    expression = _single_expression(tree) if native else None
    if expression is None:
        return environment().compile_bounded(tree).render
    assignment = nodes.Assign(nodes.Name("result", "store"), expression, lineno=1)
    template = environment().compile_bounded(nodes.Template([assignment], lineno=1))

    def evaluate(names: Mapping[str, Any]) -> Any:
        result = template.make_module(dict(names)).result  # type: ignore[attr-defined]
        return to_plain(result)

    return evaluate


def _single_expression(tree: nodes.Template) -> nodes.Expr | None:
    """The expression of a template that is, white space aside, nothing else."""
    parts = [part for output in tree.body if isinstance(output, nodes.Output) for part in output.nodes]
    if len(parts) != sum(len(o.nodes) for o in tree.body if isinstance(o, nodes.Output)) or any(
        not isinstance(o, nodes.Output) for o in tree.body
    ):
        return None
    rest = [p for p in parts if not (isinstance(p, nodes.TemplateData) and not p.data.strip())]
    return rest[0] if len(rest) == 1 and not isinstance(rest[0], nodes.TemplateData) else None


def _simple_parts(text: str, names: frozenset[str]) -> list[str | tuple[str, ...]] | None:
    """*text* as literals and paths where it holds nothing else, else None.

    As in Jinja, one newline at the end is dropped.
    """
    if "{" not in text:
        return [text.removesuffix("\n")]
    if "{%" in text or "{#" in text:
        return None
    pieces = _SIMPLE.split(text.removesuffix("\n"))
    parts: list[str | tuple[str, ...]] = []
    for index, piece in enumerate(pieces):
        if index % 2:
            path = tuple(piece.split("."))
            if path[0] not in names or not _is_plain(path):
                return None
            parts.append(path)
        elif "{{" in piece:
            return None
        else:
            parts.append(piece)
    return parts


def _is_plain(path: tuple[str, ...]) -> bool:
    """Whether *path* names a node or an input, and no part of a whole (`needs.items`), which the tree knows better."""
    return path[0] not in {"needs", "missing", "pending"} and not (path[0] == "nodes" and len(path) == 2)


def _lookup(path: tuple[str, ...], names: Mapping[str, Any]) -> Any:
    value: Any = names
    for step in path:
        if isinstance(value, dict) and step in value:
            value = value[step]
        else:
            value = environment().getattr(value, step)
            if isinstance(value, jinja2.Undefined):
                value._fail_with_undefined_error()  # noqa: SLF001 - the only way to raise an Undefined's own error
    return value


def _printed(path: tuple[str, ...], names: Mapping[str, Any]) -> str:
    try:
        return to_text(_lookup(path, names))
    except jinja2.UndefinedError as error:
        raise jinja2.UndefinedError(f"{{{{ {'.'.join(path)} }}}}: {error.message}") from None


class _Analysis:
    """One walk through a template's syntax tree."""

    def __init__(self, tree: nodes.Template, names: frozenset[str]) -> None:
        self.reads: list[Read] = []
        self.problems: list[Problem] = []
        self.dynamic: int | None = None
        self.loops: int | None = None
        self._names = names
        self._visit(tree)
        self._check_names(tree)

    def _visit(self, node: nodes.Node) -> None:
        if isinstance(node, (nodes.Getattr, nodes.Getitem, nodes.Name)):
            if (chain := _chain(node)) is not None:
                self._path(chain, node)
                return
        elif isinstance(node, nodes.Output):
            for part in node.nodes:
                chain = _chain(part)
                if chain is not None and chain[0] in {"nodes", "needs"} and len(chain) == 2:
                    self.reads.append(Read(chain[0], chain[1:], part.lineno, printed=True))
        elif isinstance(node, (nodes.Filter, nodes.Test)):
            self._check_function(node)
        elif isinstance(node, nodes.For) and node.recursive:
            self._problem("AD301", "a loop cannot be recursive", "use a macro", node)
        elif isinstance(node, (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            self._problem("AD301", "a template cannot load another one", "use `prompt_file`, or an input", node)
        for child in node.iter_child_nodes():
            self._visit(child)

    def _path(self, chain: tuple[str, ...], node: nodes.Expr) -> None:
        root, path = chain[0], chain[1:]
        if isinstance(node, nodes.Name) and node.ctx != "load":
            if root in self._names:
                self._problem("AD302", f"`{root}` cannot be set", "choose another name", node, root)
        elif root == "inputs" and path and path[0] in MAPPING_METHODS:
            self.reads.append(Read(root, (), node.lineno))
        elif root in {"nodes", "needs"} and (not path or path[0] in MAPPING_METHODS):
            if root == "nodes":
                self.dynamic = node.lineno
            else:
                self.loops = node.lineno
        elif root in self._names:
            self.reads.append(Read(root, path, node.lineno))

    def _check_function(self, node: nodes.Filter | nodes.Test) -> None:
        kind, known = (
            ("filter", environment().filters) if isinstance(node, nodes.Filter) else ("test", environment().tests)
        )
        if node.name not in known:
            self._problem("AD302", f"there is no {kind} `{node.name}`", did_you_mean(node.name, known), node, node.name)

    def _check_names(self, tree: nodes.Template) -> None:
        finder = meta.TrackingCodeGenerator(environment())
        finder.optimizer = None  # it would run constant expressions
        try:
            finder.visit(tree)
        except jinja2.TemplateAssertionError as error:
            if not self.problems:
                self.problems.append(Problem("AD301", error.message or "syntax error", None, error.lineno))
            return
        except AssertionError:  # Jinja's own, for a `set` block whose filter reads something
            self.problems.append(Problem("AD301", "Jinja cannot compile this template", "write it in simpler steps", 1))
            return
        stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
        stored |= {macro.name for macro in tree.find_all(nodes.Macro)}
        unknown = finder.undeclared_identifiers - self._names - stored - set(environment().globals)
        seen: set[str] = set()
        for name in tree.find_all(nodes.Name):
            if name.name in unknown and name.name not in seen:
                seen.add(name.name)
                hint = _FOREIGN.get(name.name) or did_you_mean(name.name, self._names)
                hint = hint or f"a template here sees {', '.join(sorted(self._names))}"
                self._problem("AD302", f"`{name.name}` is not defined", hint, name, name.name)

    def _problem(self, code: str, message: str, hint: str | None, node: nodes.Node, needle: str = "") -> None:
        self.problems.append(Problem(code, message, hint, node.lineno, needle))


def _chain(node: nodes.Node) -> tuple[str, ...] | None:
    """(`nodes`, `x`, `output`) for `nodes.x.output` and `nodes["x"].output`; None for anything else."""
    steps: list[str] = []
    while not isinstance(node, nodes.Name):
        if isinstance(node, nodes.Getattr):
            steps.append(node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            steps.append(node.arg.value)
        else:
            return None
        node = node.node
    return (node.name, *reversed(steps))


def read_problem(read: Read, inputs: Mapping[str, Any]) -> Problem | None:
    """What is wrong with a read that the template alone, the declared inputs, and the language can tell."""
    if read.root == "inputs" and read.path and read.path[0] not in inputs:
        hint = did_you_mean(read.path[0], inputs) or ("declare it under `inputs:`")
        return Problem("AD304", f"there is no input `{read.path[0]}`", hint, read.line, f"inputs.{read.path[0]}")
    if read.root == "run" and read.path and read.path[0] not in RUN_ATTRIBUTES:
        hint = did_you_mean(read.path[0], RUN_ATTRIBUTES) or "`run` has id and started"
        return Problem("AD302", f"`run` has no `{read.path[0]}`", hint, read.line, read.text)
    if read.root not in {"nodes", "needs"} or not read.path:
        return None
    name, *rest = read.path
    if not rest:
        if not read.printed:
            return None
        hint = f"write `{read.root}.{name}.output`"
        return Problem("AD305", f"`{read.text}` is the node itself, not its output", hint, read.line, read.text)
    known: tuple[str, ...] = tuple(NODE_ATTRIBUTES)
    if rest[0] in MAPPING_METHODS:
        return None
    if rest[0] in known:
        if rest[0] not in _FIELDS or len(rest) == 1 or rest[1] in _FIELDS[rest[0]]:
            return None
        known, rest = _FIELDS[rest[0]], rest[1:]
    listed = f"known are {', '.join(known)}"
    if known == tuple(NODE_ATTRIBUTES):
        listed = f"fields of the answer stand under `{read.root}.{name}.output`; {listed}"
    hint = did_you_mean(rest[0], known) or listed
    return Problem("AD305", f"a node has no `{rest[0]}`", hint, read.line, read.text)


def _message(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "this template calls itself without end"
    return getattr(error, "message", None) or str(error)


@dataclass(frozen=True, slots=True)
class ValueTemplate:
    """A plain value in which any text may be a template: what stands under `with` and `outputs`.

    `leaves` are those templates with their paths inside the value.
    """

    value: Any
    leaves: tuple[tuple[tuple[str | int, ...], Template], ...]

    @classmethod
    def of(cls, value: Any, names: frozenset[str]) -> ValueTemplate:
        leaves: list[tuple[tuple[str | int, ...], Template]] = []

        def build(part: Any, path: tuple[str | int, ...]) -> Any:
            if isinstance(part, str):
                template = Template(part, names)
                leaves.append((path, template))
                return template
            if isinstance(part, dict):
                return {key: build(item, (*path, key)) for key, item in part.items()}
            if isinstance(part, list):
                return [build(item, (*path, index)) for index, item in enumerate(part)]
            return part

        return cls(build(value, ()), tuple(leaves))

    @property
    def templates(self) -> Iterator[Template]:
        """Every template in it."""
        return (template for _, template in self.leaves)

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes that it reads."""
        reads = (read for _, template in self.leaves for read in template.reads)
        return frozenset(read.path[0] for read in reads if read.root == "nodes" and read.path)

    def evaluate(self, names: Mapping[str, Any]) -> Any:
        """The value with each template replaced by what it gives; raises TemplateError."""
        return _evaluate(self.value, names)


def _evaluate(part: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(part, Template):
        return part.value(names)
    if isinstance(part, dict):
        return {key: _evaluate(item, names) for key, item in part.items()}
    if isinstance(part, list):
        return [_evaluate(item, names) for item in part]
    return part
