"""Where a `call:` points to, found without running anybody's code.

Modules are looked for beside the pipeline, then where Python looks; their source is read, not imported.
"""

from __future__ import annotations

import ast
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from agentdag.language.findings import did_you_mean


class FunctionProblem(Exception):
    """A function that is not there: why, and the mend."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Functions:
    """What the modules in reach of one pipeline define, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, frozenset[str] | None] = {}

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

    def _names_in(self, module: str) -> frozenset[str] | None:
        """The names at the top of *module*, or None where that cannot be told; raises FunctionProblem."""
        spec = self._find(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        try:
            tree = ast.parse(Path(spec.origin).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise FunctionProblem(f"`{module}` cannot be read: {error}") from None
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
