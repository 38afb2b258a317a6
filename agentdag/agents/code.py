"""What a Python function does, as a digest: so that a result is used again only while that is the same.

Layout, comments and what the function does not reach do not count; what it reaches in modules beside its own does.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any


def code_of(function: Callable[..., Any]) -> str:
    """The digest of *function*; where its source cannot be read, of its name and its package's version."""
    plain = inspect.unwrap(function)
    module = sys.modules.get(getattr(plain, "__module__", None) or "")
    name = str(getattr(plain, "__qualname__", type(plain).__qualname__)).partition(".")[0]
    try:
        told = [] if module is None else sorted(_reached(module, name))
    except (OSError, SyntaxError, TypeError, RecursionError):
        told = []
    if not told:
        package = sys.modules.get((module.__name__ if module else "").partition(".")[0])
        told = [f"{getattr(plain, '__module__', '')}:{name} {getattr(package, '__version__', '')}"]
    return blake2b("\n".join(told).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _reached(module: ModuleType, name: str) -> Iterator[str]:
    """*name* of *module*, and all that it reaches."""
    seen: set[tuple[str, str]] = set()
    left = [(module, name)]
    parsed: dict[str, dict[str, list[ast.stmt]]] = {}
    while left:
        here, name = left.pop()
        if (here.__name__, name) in seen:
            continue
        seen.add((here.__name__, name))
        if here.__name__ not in parsed:
            parsed[here.__name__] = _defined(here)
        for statement in parsed[here.__name__].get(name, ()):
            yield f"{here.__name__}.{name} {ast.dump(statement)}"
            left += [(here, each.id) for each in ast.walk(statement) if isinstance(each, ast.Name)]
            left += _imported(statement, here, parsed)


def _defined(module: ModuleType) -> dict[str, list[ast.stmt]]:
    """The statements at the top of *module*, by the names that they set."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in ast.parse(inspect.getsource(module)).body:
        for name in _names_set(statement):
            found.setdefault(name, []).append(statement)
    return found


def _names_set(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
    else:
        yield from {
            each.id for each in ast.walk(statement) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
        }


def _imported(
    statement: ast.stmt, here: ModuleType, parsed: dict[str, dict[str, list[ast.stmt]]]
) -> Iterator[tuple[ModuleType, str]]:
    """What an import brings from modules that stand beside *here*: of a whole module, all."""
    if isinstance(statement, ast.ImportFrom) and not statement.level:
        source = sys.modules.get(statement.module or "")
        if source is not None and _is_beside(source, here):
            yield from ((source, alias.name) for alias in statement.names)
    elif isinstance(statement, ast.Import):
        for alias in statement.names:
            source = sys.modules.get(alias.name)
            if source is not None and _is_beside(source, here):
                parsed.setdefault(source.__name__, _defined(source))
                yield from ((source, name) for name in parsed[source.__name__])


def _is_beside(source: ModuleType, here: ModuleType) -> bool:
    """Whether both are the user's own: files below one folder."""
    file, own = getattr(source, "__file__", None), getattr(here, "__file__", None)
    if not file or not own:
        return False
    return Path(file).is_relative_to(Path(own).parent) and "site-packages" not in file
