"""What the shell completes: ids of nodes, names of inputs, words. Whatever goes wrong, nothing is offered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from agentdag.errors import AgentdagError


def _keys(context: typer.Context, section: str) -> list[str]:
    """The names under *section* of the pipeline that has been typed."""
    from agentdag.language.document import parse_document, read_text

    path = context.params.get("pipeline")
    if not path:
        return []
    try:
        value: Any = parse_document(read_text(Path(path), str(path)), str(path))[0].value
    except AgentdagError:
        return []
    named = value.get(section) if isinstance(value, dict) else None
    return list(named) if isinstance(named, dict) else []


def node_durations(context: typer.Context, incomplete: str) -> Iterator[str]:
    """`financial=`, for --what-if."""
    return (f"{name}=" for name in _keys(context, "nodes") if f"{name}=".startswith(incomplete))


def input_values(context: typer.Context, incomplete: str) -> Iterator[str]:
    """`company=`, for --input."""
    return (f"{name}=" for name in _keys(context, "inputs") if f"{name}=".startswith(incomplete))


def explained_words(incomplete: str) -> Iterator[str]:
    from agentdag.cli.explain import words

    return (word for word in words() if word.startswith(incomplete))
