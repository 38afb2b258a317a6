"""What the shell completes: ids of nodes, names of inputs, words. Whatever goes wrong, nothing is offered."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentdag.errors import AgentdagError

_LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""Where the shells leave what has been typed; an option that still lacks its value keeps it from being parsed."""


def node_durations(incomplete: str) -> Iterator[str]:
    """`financial=`, for --what-if."""
    return (f"{name}=" for name in _names("nodes") if f"{name}=".startswith(incomplete))


def input_values(incomplete: str) -> Iterator[str]:
    """`company=`, for --input."""
    return (f"{name}=" for name in _names("inputs") if f"{name}=".startswith(incomplete))


def explained_words(incomplete: str) -> Iterator[str]:
    """Everything that `explain` knows."""
    from agentdag.cli.explain import words

    return (word for word in words() if word.startswith(incomplete))


def _names(section: str) -> list[str]:
    """The names under *section* of the pipeline that has been typed."""
    from agentdag.language.document import parse_document, read_text

    for path in _typed():
        try:
            value: Any = parse_document(read_text(path, str(path)), str(path))[0].value
        except AgentdagError:
            continue
        named = value.get(section) if isinstance(value, dict) else None
        return list(named) if isinstance(named, dict) else []
    return []


def _typed() -> Iterator[Path]:
    """The files among the words that have been typed."""
    line = next((os.environ[name] for name in _LINES if name in os.environ), "")
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is still open
        words = line.split()
    return (Path(word) for word in words if word.endswith((".yaml", ".yml")) and Path(word).is_file())


def run_ids(incomplete: str) -> Iterator[str]:
    """The newest runs of the stores around."""
    from agentdag.store.history import History
    from agentdag.store.keeper import stores_around

    for folder in stores_around(None, os.environ, Path()):
        try:
            history = History(folder)
            yield from (line.id for line in history.runs(limit=20) if line.id.startswith(incomplete))
            history.close()
        except AgentdagError:
            continue
