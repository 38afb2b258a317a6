"""Seconds, counts and failures in the words that all views share; everything that comes out is inert."""

from __future__ import annotations

from typing import TextIO

from agentdag.errors import Failure
from agentdag.language.findings import inert

__all__ = ["count", "failure", "inert", "inert_lines", "seconds", "speaks"]


def seconds(value: float) -> str:
    """0.4 s, 12.3 s, 3 min 05 s, 2 h 10 min."""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 119.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(value: int, noun: str) -> str:
    """1 node, 2 nodes, 1,234 tokens."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def inert_lines(text: str) -> str:
    """As `inert`, but line ends and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"<U+{ord(c):04X}>" for c in text)


def speaks(stream: TextIO, text: str) -> bool:
    """Whether *stream* can show *text*."""
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def failure(error: Failure, attempts: int = 0) -> str:
    """The whole story of a failure on one line."""
    facts = [error.provider, f"status {error.status}" if error.status else None]
    facts += [f"request {error.request_id}" if error.request_id else None]
    facts += {"no": ["not billed"] if error.provider else [], "yes": ["billed"], "maybe": ["maybe billed"]}[
        error.billed
    ]
    facts += [f"asked to wait {seconds(error.retry_after_s)}" if error.retry_after_s else None]
    facts += [count(attempts, "attempt") if attempts > 1 else None]
    told = ", ".join(fact for fact in facts if fact)
    return inert(f"{error.kind}: {error.message}" + (f" ({told})" if told else ""))
