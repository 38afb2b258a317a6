"""What can go wrong, as values and as one tree of exceptions.

A class says what the caller should do; attributes say what happened.

    AgentdagError
    ├── SpecError          mend the pipeline's file: `.findings` says where
    ├── UsageError         mend the invocation: an input, an option, a missing key
    └── CallError          one attempt of one node failed: `.failure` says how
        ├── RetryableError   the same call may succeed later
        └── FinalError       the same call would fail again
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Billed = Literal["no", "yes", "maybe"]
Severity = Literal["error", "warning"]


class ErrorKind(StrEnum):
    """Why a node failed; the words of `error.kind` in events."""

    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"
    SERVER = "server"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    BAD_RESPONSE = "bad_response"
    AUTH = "auth"
    QUOTA = "quota"
    REFUSED = "refused"
    TOO_LONG = "too_long"
    BAD_REQUEST = "bad_request"
    TEMPLATE = "template"
    FUNCTION = "function"
    INTERNAL = "internal"


TRANSIENT = frozenset(
    {
        ErrorKind.RATE_LIMIT,
        ErrorKind.OVERLOADED,
        ErrorKind.SERVER,
        ErrorKind.CONNECTION,
        ErrorKind.TIMEOUT,
        ErrorKind.BAD_RESPONSE,
    }
)
"""The kinds that are retried unless a node says otherwise."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt. *billed* says whether the provider may charge for it."""

    kind: ErrorKind
    message: str
    provider: str | None = None
    status: int | None = None
    request_id: str | None = None
    billed: Billed = "no"
    retry_after_s: float | None = None
    final: bool = False
    """Whether the same call would fail again although its kind is transient: a bad certificate, a huge body."""


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a file. Lines and columns count from 1; the end column is one past the last."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    excerpt: str = ""
    """The text of `line`, for showing the place."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem in a pipeline: what, where, and the mend where one is known."""

    code: str
    severity: Severity
    span: Span
    message: str
    hint: str | None = None


class AgentdagError(Exception):
    """Everything that agentdag raises on purpose."""


class SpecError(AgentdagError):
    """The pipeline's file is wrong. `findings` holds every problem, in file order."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        first = self.findings[0]
        place = f"{first.span.file}:{first.span.line}:{first.span.column}"
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        super().__init__(f"{place}: {first.message}{more}")


class UsageError(AgentdagError):
    """The invocation is wrong: an input, an option, or the environment."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n  hint: {hint}")
        self.message = message
        self.hint = hint


class CallError(AgentdagError):
    """One attempt failed; raised by providers and agents, turned into a value by the engine."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class RetryableError(CallError):
    """The same call may succeed later."""


class FinalError(CallError):
    """The same call would fail again."""


def call_error(failure: Failure) -> CallError:
    """The exception for *failure*."""
    return (RetryableError if failure.kind in TRANSIENT and not failure.final else FinalError)(failure)
