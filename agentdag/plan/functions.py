"""Where a `call:` points to, found without running anybody's code.

Modules are looked for beside the pipeline, then where Python looks; their source is read, not imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from agentdag.language.findings import did_you_mean


class FunctionProblem(Exception):
    """A function that is not there: why, and the mend."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Parameters:
    """The keyword arguments that a function takes; `accepted` is None where it takes any."""

    required: tuple[str, ...]
    accepted: frozenset[str] | None


class Functions:
    """What the modules in reach of one pipeline define, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # Python remembers what it found in "." when it was elsewhere
        self._names: dict[str, frozenset[str] | None] = {}
        self._parameters: dict[tuple[str, str], Parameters] = {}
        self._fields: dict[tuple[str, str], frozenset[str]] = {}

    def check(self, module: str, function: str) -> None:
        """Raise FunctionProblem where `module:function` is certainly not there.

        What only running the module would tell (a name made at import, a compiled module) is let through.
        """
        if module not in self._names:
            self._names[module] = self._names_in(module)
        names = self._names[module]
        name = function.partition(".")[0]
        if names is not None and name not in names:
            raise FunctionProblem(f"`{module}` has no `{name}`", did_you_mean(name, names))

    def parameters(self, module: str, function: str) -> Parameters | None:
        """What the checked `module:function` takes, or None where its source does not tell."""
        return self._parameters.get((module, function))

    def fields(self, module: str, model: str) -> frozenset[str]:
        """The fields of the checked pydantic model `module:model`; none where its source does not tell them all."""
        return self._fields.get((module, model), frozenset())

    def _names_in(self, module: str) -> frozenset[str] | None:
        """The names at the top of *module*, or None where that cannot be told; raises FunctionProblem."""
        spec = self._find(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        try:
            tree = ast.parse(Path(spec.origin).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise FunctionProblem(f"`{module}` cannot be read: {error}") from None
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and [_last_name(base) for base in node.bases] == ["BaseModel"]:
                self._fields[module, node.name] = frozenset(_fields(node))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.decorator_list:
                taken = _parameters(node.args)
                if taken is not None:
                    self._parameters[module, node.name] = taken
            else:
                for name in _bound(node):
                    self._parameters.pop((module, name), None)
        return _top_names(tree)

    def _find(self, module: str) -> ModuleSpec | None:
        """Where *module* is, or None where only importing would tell; raises FunctionProblem."""
        paths: list[str] | None = [str(self._folder), *sys.path]
        spec: ModuleSpec | None = None
        whole = ""
        for name in module.split("."):
            if spec is not None and paths is None:
                return None  # inside a module that is no package: os.path is such a one
            whole = f"{whole}.{name}" if whole else name
            spec = PathFinder.find_spec(whole, paths)
            if spec is None and whole in sys.builtin_module_names:
                return None
            if spec is None:
                known = [path.stem for path in self._folder.glob("*.py")]
                hint = did_you_mean(module, known)
                hint = hint or f"modules are looked for in {self._folder}, then where Python looks"
                raise FunctionProblem(f"there is no module `{module}`", hint)
            paths = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        return spec


def _parameters(arguments: ast.arguments) -> Parameters | None:
    """What a function's own words say; None where some can be given by position only."""
    if arguments.posonlyargs:
        return None
    plain = [each.arg for each in arguments.args]
    needed = plain[: len(plain) - len(arguments.defaults)]
    needed += [
        each.arg for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if not default
    ]
    accepted = frozenset(plain + [each.arg for each in arguments.kwonlyargs])
    return Parameters(tuple(needed), None if arguments.kwarg else accepted)


def _last_name(node: ast.expr) -> str | None:
    """`BaseModel` of `BaseModel` and of `pydantic.BaseModel`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _fields(model: ast.ClassDef) -> Iterator[str]:
    """The fields that the source of a pydantic *model* declares, unless a field may have another name outside."""
    if any(isinstance(each, ast.keyword) and each.arg == "alias" for each in ast.walk(model)):
        return
    for each in model.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id


def _bound(node: ast.stmt) -> Iterator[str]:
    """The names that a statement binds again: what a function of that name takes is then unknown."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id
        elif isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield each.name


def _top_names(tree: ast.Module) -> frozenset[str] | None:
    """The names that a module may bind at its top, or None where that cannot be told."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
                if name == "__getattr__":
                    return None
            case ast.ImportFrom(names=aliases) if any(alias.name == "*" for alias in aliases):
                return None
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update((alias.asname or alias.name).partition(".")[0] for alias in aliases)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return frozenset(names)
