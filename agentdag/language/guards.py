"""Which outputs a template reads without having asked whether they are there.

A node that did not succeed has no `output`. This file walks a template's control flow with what is known at each
place: `nodes.x.ok` holds inside `{% if nodes.x.ok %}`, in the left arm of an inline `if`, to the right of `and`.
Where it cannot tell, it says nothing: a false alarm is worse than silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from jinja2 import nodes

from agentdag.language.sandbox import environment


@dataclass(frozen=True, slots=True)
class Unguarded:
    """A read of the output of `node`, or of each of the needs where that is None; `line` counts from 1."""

    node: str | None
    line: int
    needle: str


@dataclass(frozen=True, eq=False)
class _Each:
    """Whatever a loop over `needs` has in hand."""


_Which = str | _Each
_ALL = "*"
"""The fact that no dependency is missing."""


@dataclass(frozen=True, slots=True)
class _Node:
    which: _Which


@dataclass(frozen=True, slots=True)
class _Output:
    """The output of a node: undefined where the node is missing."""

    which: _Which


@dataclass(frozen=True, slots=True)
class _Key:
    """The id of a node, as a loop over `needs` gives it."""

    which: _Which


_Facts = frozenset[_Which]
"""The nodes that are known to have succeeded."""
_NOTHING: _Facts = frozenset()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is known where an expression is true, and where it is false."""

    true: _Facts = _NOTHING
    false: _Facts = _NOTHING

    @property
    def reversed(self) -> _Answer:
        return _Answer(self.false, self.true)


_Known = dict[str, _Node | _Output | _Key | _Answer]
"""What the template's own variables stand for, as far as that can be told."""

_HARMLESS_TESTS = frozenset({"none", "string", "mapping", "number", "integer", "float", "boolean", "true", "false"})
"""Tests that answer false for what is undefined, rather than fail."""
_CHOOSING = frozenset({"select", "reject", "selectattr", "rejectattr"})


def unguarded(text: str, *, missing_tells: bool = True) -> tuple[Unguarded, ...]:
    """The reads in the template *text* that fail where their node has no output, each node once.

    *missing_tells* is false of nodes that are not among the needs, of which `missing` says nothing.
    """
    walk = _Walk()
    known: _Known = {} if missing_tells else {"missing": _Answer()}
    try:
        walk.statements(environment().parse(text).body, known, _NOTHING)
    except RecursionError:
        return ()
    return tuple(walk.found.values())


@dataclass
class _Walk:
    found: dict[str | None, Unguarded] = field(default_factory=dict)

    def statements(self, body: Sequence[nodes.Node], known: _Known, facts: _Facts) -> None:
        """Walk *body*; what it assigns is put into *known*."""
        for statement in body:
            match statement:
                case nodes.If():
                    self._if(statement, known, facts)
                case nodes.For():
                    self._for(statement, known, facts)
                case nodes.Assign(target=nodes.Name(name=name)):
                    self._assign(name, statement.node, known, facts)
                case nodes.With():
                    inner = dict(known)
                    for target, value in zip(statement.targets, statement.values, strict=True):
                        if isinstance(target, nodes.Name):
                            self._assign(target.name, value, inner, facts)
                    self.statements(statement.body, inner, facts)
                case nodes.Macro():
                    pass  # what is known where it is called cannot be told
                case nodes.Assign() | nodes.Output() | nodes.ExprStmt():
                    for child in statement.iter_child_nodes():
                        self._read(child, known, facts)
                case _:
                    self.statements(list(statement.iter_child_nodes()), dict(known), facts)
                    if isinstance(statement, nodes.Expr):
                        self._read(statement, known, facts)

    def _if(self, statement: nodes.If, known: _Known, facts: _Facts) -> None:
        before = dict(known)
        for branch in (statement, *statement.elif_):
            self._read(branch.test, known, facts)
            answer = _asks(branch.test, known)
            self._branch(branch.body, known, before, facts | answer.true)
            facts |= answer.false
        self._branch(statement.else_, known, before, facts)

    def _branch(self, body: Sequence[nodes.Node], known: _Known, before: _Known, facts: _Facts) -> None:
        """Walk one arm; what it assigns may or may not be so afterwards."""
        inner = dict(before)
        self.statements(body, inner, facts)
        for name in inner.keys() | before.keys():
            if inner.get(name) != before.get(name):
                known.pop(name, None)

    def _for(self, statement: nodes.For, known: _Known, facts: _Facts) -> None:
        inner = dict(known)
        for name in _names_of(statement.target):
            inner.pop(name.name, None)
        bound = _loop_variables(statement)
        inner |= bound
        if not bound:
            self._read(statement.iter, known, facts)
        if statement.test is not None:
            self._read(statement.test, inner, facts)
            inner_facts = facts | _asks(statement.test, inner).true
        else:
            inner_facts = facts
        self.statements(statement.body, inner, inner_facts)
        self.statements(statement.else_, dict(known), facts)

    def _assign(self, name: str, value: nodes.Node, known: _Known, facts: _Facts) -> None:
        """Assigning what is undefined is no mistake; using it then is."""
        meaning = _meaning(value, known)
        answer = _asks(value, known)
        if meaning is None or (isinstance(meaning, _Output) and _covered(meaning.which, facts)):
            self._read(value, known, facts)
        known.pop(name, None)
        if meaning is not None and not (isinstance(meaning, _Output) and _covered(meaning.which, facts)):
            known[name] = meaning
        elif answer != _Answer():
            known[name] = answer

    def _read(self, node: nodes.Node, known: _Known, facts: _Facts) -> None:
        """Walk an expression whose value is used."""
        meaning = _meaning(node, known)
        if isinstance(meaning, _Output):
            self._record(meaning.which, facts, node)
        if meaning is not None:
            return
        match node:
            case nodes.And():
                self._read(node.left, known, facts)
                self._read(node.right, known, facts | _asks(node.left, known).true)
            case nodes.Or():
                self._read(node.left, known, facts)
                self._read(node.right, known, facts | _asks(node.left, known).false)
            case nodes.CondExpr():
                answer = _asks(node.test, known)
                self._read(node.test, known, facts)
                self._read(node.expr1, known, facts | answer.true)
                if node.expr2 is not None:
                    self._read(node.expr2, known, facts | answer.false)
            case nodes.Filter():
                self._read_filter(node, known, facts)
            case nodes.Test() if isinstance(_meaning(node.node, known), _Output) and (
                node.name in {"defined", "undefined"} | _HARMLESS_TESTS
            ):
                pass
            case _:
                self._read_all(node.iter_child_nodes(), known, facts)

    def _read_all(self, parts: Iterable[nodes.Node], known: _Known, facts: _Facts) -> None:
        for part in parts:
            self._read(part, known, facts)

    def _read_filter(self, node: nodes.Filter, known: _Known, facts: _Facts) -> None:
        subject = node.node
        spared: set[nodes.Node] = set()
        if subject is not None and node.name in {"default", "d"} and isinstance(_meaning(subject, known), _Output):
            spared = {subject}
        elif isinstance(subject, (nodes.List, nodes.Tuple)) and _keeps_what_is_defined(node):
            self._read_all((part for part in subject.items if _meaning(part, known) is None), known, facts)
            spared = {subject}
        elif node.name == "map" and _maps_outputs(node):
            self._record(_Each(), facts, node)
        self._read_all((part for part in node.iter_child_nodes() if part not in spared), known, facts)

    def _record(self, which: _Which, facts: _Facts, node: nodes.Node) -> None:
        if _covered(which, facts):
            return
        name = which if isinstance(which, str) else None
        self.found.setdefault(name, Unguarded(name, node.lineno, _written(node)))


def _written(node: nodes.Node) -> str:
    """`nodes.x.output`, `node.output`: as it most likely stands in the template."""
    match node:
        case nodes.Name(name=name):
            return name
        case nodes.Getattr(node=inner, attr=name):
            before = _written(inner)
            return f"{before}.{name}" if before else ""
    return ""


def _covered(which: _Which, facts: _Facts) -> bool:
    return which in facts or _ALL in facts


def _meaning(node: nodes.Node | None, known: _Known) -> _Node | _Output | _Key | None:
    """What *node* stands for, where it is a node, its output, or its id."""
    match node:
        case nodes.Name(name=name):
            found = known.get(name)
            return None if isinstance(found, _Answer) else found
        case nodes.Getattr(node=nodes.Name(name="nodes" | "needs"), attr=name):
            return _Node(name)
        case nodes.Getitem(node=nodes.Name(name="nodes" | "needs"), arg=argument):
            if isinstance(argument, nodes.Const) and isinstance(argument.value, str):
                return _Node(argument.value)
            key = _meaning(argument, known)
            return _Node(key.which) if isinstance(key, _Key) else None
        case nodes.Getattr(node=inner, attr="output") | nodes.Getitem(node=inner, arg=nodes.Const(value="output")):
            of = _meaning(inner, known)
            return _Output(of.which) if isinstance(of, _Node) else None
    return None


def _asks(node: nodes.Node, known: _Known) -> _Answer:
    """What the truth of *node* says about who has succeeded."""
    match node:
        case nodes.Not():
            return _asks(node.node, known).reversed
        case nodes.And():
            left, right = _asks(node.left, known), _asks(node.right, known)
            return _Answer(left.true | right.true, _either(left.false, right.false))
        case nodes.Or():
            left, right = _asks(node.left, known), _asks(node.right, known)
            return _Answer(_either(left.true, right.true), left.false | right.false)
        case nodes.Test():
            return _test_asks(node, known)
        case nodes.Compare(ops=[operand]):
            return _comparison_asks(node.expr, operand.op, operand.expr, known)
        case nodes.Name(name="missing") | nodes.Filter(name="length" | "count", node=nodes.Name(name="missing")):
            return _Answer() if "missing" in known else _Answer(false=frozenset({_ALL}))
    return _value_asks(node, known)


def _either(left: _Facts, right: _Facts) -> _Facts:
    """What is known where one of the two is so."""
    if _ALL in left:
        return right
    return left if _ALL in right else left & right


def _value_asks(node: nodes.Node, known: _Known) -> _Answer:
    """As `_asks`, of what is neither an operator nor a test."""
    told = known.get(node.name) if isinstance(node, nodes.Name) else None
    if isinstance(told, _Answer):
        return told
    of = _meaning(node, known)
    if isinstance(of, _Output):  # to ask what is undefined fails: behind it, the node is there
        return _Answer(frozenset({of.which}), frozenset({of.which}))
    match node:
        case nodes.Getattr(node=inner, attr="ok") | nodes.Getitem(node=inner, arg=nodes.Const(value="ok")):
            of = _meaning(inner, known)
            return _Answer(frozenset({of.which})) if isinstance(of, _Node) else _Answer()
        case nodes.Filter(name="default" | "d", args=[] | [nodes.Const(value="" | None | False)]):
            of = _meaning(node.node, known)
            return _Answer(frozenset({of.which})) if isinstance(of, _Output) else _Answer()
    return _Answer()


def _test_asks(node: nodes.Test, known: _Known) -> _Answer:
    of = _meaning(node.node, known)
    if isinstance(of, _Output):
        present = frozenset({of.which})
        if node.name in {"undefined", "defined"}:
            return _Answer(false=present) if node.name == "undefined" else _Answer(present)
        return _Answer(present) if node.name in _HARMLESS_TESTS else _Answer()
    if node.name in {"true", "false"}:
        told = _asks(node.node, known)
        return told if node.name == "true" else told.reversed
    if node.name == "in" and node.args:
        return _comparison_asks(node.node, "in", node.args[0], known)
    return _Answer()


def _comparison_asks(left: nodes.Expr, operator: str, right: nodes.Expr, known: _Known) -> _Answer:
    """`status == "succeeded"`, `ok == true`, `"x" in missing`, `missing | length == 0`, `missing == []`."""
    if "missing" in known and any(name.name == "missing" for side in (left, right) for name in _names_of(side)):
        return _Answer()
    if isinstance(right, nodes.Name) and right.name == "missing" and operator in {"in", "notin"}:
        key = left.value if isinstance(left, nodes.Const) else _meaning(left, known)
        which = key.which if isinstance(key, _Key) else key
        told = _Answer(false=frozenset({which})) if isinstance(which, (str, _Each)) else _Answer()
        return told if operator == "in" else told.reversed
    if operator not in {"eq", "ne", "gt"}:
        return _Answer()
    told = _Answer()
    empty = isinstance(right, nodes.List) and not right.items
    match left, right:
        case nodes.Getattr(node=inner, attr="status"), nodes.Const(value="succeeded"):
            of = _meaning(inner, known)
            told = _Answer(frozenset({of.which})) if isinstance(of, _Node) else told
        case _, nodes.Const(value=bool(value)):
            told = _asks(left, known) if value else _asks(left, known).reversed
        case nodes.Filter(name="length" | "count", node=nodes.Name(name="missing")), nodes.Const(value=0):
            told = _Answer(frozenset({_ALL}))
        case nodes.Name(name="missing"), nodes.List() if empty:
            told = _Answer(frozenset({_ALL}))
    if operator == "gt":  # only `missing | length > 0` asks anything
        return told.reversed if _ALL in told.true else _Answer()
    return told if operator == "eq" else told.reversed


def _names_of(node: nodes.Node) -> Iterable[nodes.Name]:
    return [node] if isinstance(node, nodes.Name) else node.find_all(nodes.Name)


def _loop_variables(statement: nodes.For) -> _Known:
    """What the variables of a loop over `needs` stand for; nothing for any other loop."""
    each = _Each()
    over, target = statement.iter, statement.target
    whole = _is_whole(over)
    match over:
        case nodes.Call(node=nodes.Getattr(node=inner, attr=method), args=[]) if _is_whole(inner):
            pass
        case nodes.Filter(name="items" | "dictsort", node=inner) if inner is not None and _is_whole(inner):
            method = "items"
        case _ if whole:
            method = "keys"
        case _:
            return {}
    match method, target:
        case "items", nodes.Tuple(items=[nodes.Name(name=key), nodes.Name(name=value)]):
            return {key: _Key(each), value: _Node(each)}
        case "values", nodes.Name(name=value):
            return {value: _Node(each)}
        case "keys", nodes.Name(name=key):
            return {key: _Key(each)}
    return {}


def _is_whole(node: nodes.Node) -> bool:
    """`needs` itself, or `nodes` where a loop may go over it."""
    return isinstance(node, nodes.Name) and node.name in {"needs", "nodes"}


def _keeps_what_is_defined(node: nodes.Filter) -> bool:
    match node:
        case nodes.Filter(name="select", args=[nodes.Const(value="defined")]):
            return True
        case nodes.Filter(name="reject", args=[nodes.Const(value="undefined")]):
            return True
    return False


def _maps_outputs(node: nodes.Filter) -> bool:
    """`needs.values() | map(attribute="output")`, with nothing chosen on the way and no default."""
    given = {str(pair.key): pair.value for pair in node.kwargs}
    attribute = given.get("attribute")
    if not isinstance(attribute, nodes.Const) or str(attribute.value).partition(".")[0] != "output":
        return False
    inner: nodes.Node | None = node.node
    while isinstance(inner, nodes.Filter):
        if inner.name in _CHOOSING:
            return False
        inner = inner.node
    match inner:
        case nodes.Call(node=nodes.Getattr(node=whole, attr="values"), args=[]):
            return "default" not in given and _is_whole(whole)
    return False
