"""What a Python function does, as a digest: so that a result is used again only while that is the same.

Layout, comments and what the function does not reach do not count; what it reaches in modules beside its own does.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

_Defined = dict[str, list[ast.stmt]]


def code_of(module: ModuleType, name: str) -> str:
    """The digest of *name* in *module*; where its source cannot be read, of its name and its package's version."""
    try:
        told = sorted(_reached(module, name.partition(".")[0]))
    except (OSError, SyntaxError, TypeError, ValueError, RecursionError):
        told = []
    if not told:
        package = sys.modules.get(module.__name__.partition(".")[0])
        told = [f"{module.__name__}:{name} {getattr(package, '__version__', '')}"]
    return blake2b("\n".join(told).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _reached(module: ModuleType, name: str) -> Iterator[str]:
    """*name* of *module*, and all that it reaches."""
    seen: set[tuple[str, str]] = set()
    left = [(module, name)]
    parsed: dict[str, _Defined] = {}
    while left:
        here, name = left.pop()
        if (here.__name__, name) in seen:
            continue
        seen.add((here.__name__, name))
        for statement in _defined(here, parsed).get(name, ()):
            yield f"{name} {ast.dump(statement)}"
            for part in ast.walk(statement):
                if isinstance(part, ast.Name):
                    left.append((here, part.id))
                elif isinstance(part, (ast.Import, ast.ImportFrom)):
                    left += _imported(part, here, parsed)


def _defined(module: ModuleType, parsed: dict[str, _Defined]) -> _Defined:
    """The statements at the top of *module*, by the names that they set."""
    if module.__name__ not in parsed:
        found = parsed[module.__name__] = {}
        for statement in ast.parse(inspect.getsource(module)).body:
            for name in _names_set(statement):
                found.setdefault(name, []).append(statement)
    return parsed[module.__name__]


def _names_set(statement: ast.stmt) -> set[str]:
    """The names that *statement* sets, and those inside an `if` or a `try`."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    names: set[str] = set()
    for part in ast.walk(statement):
        if isinstance(part, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in part.names}
        elif isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(part.name)
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names.add(part.id)
    return names


def _imported(
    statement: ast.Import | ast.ImportFrom, here: ModuleType, parsed: dict[str, _Defined]
) -> Iterator[tuple[ModuleType, str]]:
    """What an import brings from modules that stand beside *here*: of a whole module, all."""
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            whole = [alias.name]
        else:
            source = _absolute(statement, here)
            found = sys.modules.get(source)
            if found is not None and _is_beside(found, here):
                yield found, alias.name
            whole = [f"{source}.{alias.name}"]
        for name in whole:
            module = sys.modules.get(name)
            if module is not None and _is_beside(module, here):
                yield from ((module, each) for each in _defined(module, parsed))


def _absolute(statement: ast.ImportFrom, here: ModuleType) -> str:
    """The module that *statement* names, a relative one from *here*."""
    name = statement.module or ""
    if not statement.level:
        return name
    return importlib.util.resolve_name("." * statement.level + name, here.__package__ or here.__name__)


def _is_beside(source: ModuleType, here: ModuleType) -> bool:
    """Whether both are the user's own: files below one folder, or in one package."""
    file, own = getattr(source, "__file__", None), getattr(here, "__file__", None)
    if not file or not own or "site-packages" in file:
        return False
    depth = (here.__package__ or "").count(".") + bool(here.__package__)
    folder = Path(own).parents[min(depth, len(Path(own).parents) - 1)]
    return Path(file).is_relative_to(folder)
