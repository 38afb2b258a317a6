"""Where a `call:` points to, found without running anybody's code.

Modules are looked for beside the pipeline, then where Python looks; their source is read, not imported.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from agentdag.language.findings import did_you_mean


class FunctionProblem(Exception):
    """A function that is not there: why, and the mend."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def check_function(module: str, function: str, folder: Path, search: Sequence[str]) -> None:
    """Raise FunctionProblem where `module:function` is certainly not there.

    What only running the module would tell (a name made at import, a compiled module) is let through.
    """
    paths: list[str] | None = [str(folder), *search]
    spec = None
    for depth, name in enumerate(module.split(".")):
        spec = PathFinder.find_spec(name if depth == 0 else f"{spec.name}.{name}" if spec else name, paths)
        if spec is None:
            known = [path.stem for path in folder.glob("*.py")]
            hint = did_you_mean(name, known) or f"modules are looked for in {folder}, then where Python looks"
            raise FunctionProblem(f"there is no module `{module}`", hint)
        paths = list(spec.submodule_search_locations or [])
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        raise FunctionProblem(f"`{module}` cannot be read: {error}") from None
    names = _top_names(tree)
    name = function.split(".", maxsplit=1)[0]
    if names is not None and name not in names:
        raise FunctionProblem(f"`{module}` has no `{name}`", did_you_mean(name, names))


def _top_names(tree: ast.Module) -> set[str] | None:
    """The names that a module binds at its top, or None where that cannot be told."""
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
                names.update((alias.asname or alias.name).split(".")[0] for alias in aliases)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names
