"""What can go wrong, as values and as one tree of exceptions.

A class says what the caller should do; attributes say what happened.

    AgentdagError
    ├── SpecError          mend the pipeline's file: `.findings` says where
    ├── QueueFull          submit less, or later: `AgentPool.on_full` said "reject"
    ├── MendableError      `.hint` says how
    │   ├── UsageError       mend the invocation: an input, an option, a missing key
    │   └── StoreError       mend the store: its folder, its disk, or who else uses it
    └── CallError          one attempt of one node failed: `.failure` says how
        ├── RetryableError   the same call may succeed later
        └── FinalError       the same call would fail again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

Billed = Literal["no", "yes", "maybe"]
Severity = Literal["error", "warning"]


class Word(StrEnum):
    """A word of the language, with what it means."""

    meaning: str

    def __new__(cls, word: str, meaning: str = "") -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member


class ErrorKind(Word):
    """Why a node failed; the words of `error.kind` in events."""

    RATE_LIMIT = "rate_limit", "The provider takes no more requests or tokens for now (429). Retried."
    OVERLOADED = "overloaded", "The provider is short of capacity (529, or an overload told in a stream). Retried."
    SERVER = "server", "The provider failed (500, 502, 503, 504). Retried."
    CONNECTION = "connection", "No connection, or one that broke; not retried where its certificate is bad."
    TIMEOUT = "timeout", "The attempt took longer than the node's `timeout`. Retried, then the node is `timed_out`."
    BAD_RESPONSE = "bad_response", "The answer is broken: truncated, empty, no JSON, a stream without an end. Retried."
    INVALID_OUTPUT = (
        "invalid_output",
        "The answer does not fit `output`, not even after it was sent back once with what is wrong. Retried.",
    )
    AUTH = (
        "auth",
        "The key is missing, wrong, or not allowed (401, 403). Never retried; 401 shuts that model for the run.",
    )
    QUOTA = "quota", "The account has no credit left. Never retried; shuts that model for the run."
    REFUSED = "refused", "The model or a content filter refused. Never retried."
    TOO_LONG = "too_long", "The prompt does not fit into the model's context. Never retried."
    BAD_REQUEST = "bad_request", "The provider does not accept the request: a parameter, a model's name. Never retried."
    TOOL = "tool", "A tool's server cannot be reached (retried), or the model found no answer with its tools."
    SAVE = "save", "The output could not be written to its file; the answer is on record, and a resume writes it."
    TEMPLATE = "template", "A template failed on the data of this run, such as a missing output that it reads."
    FUNCTION = "function", "A Python function raised, or returned what JSON cannot hold. Retried only if `on` names it."
    COMMAND = (
        "command",
        "A program could not be run, or ended with an exit code other than 0. Retried only if `on` names it.",
    )
    HTTP = "http", "A remote agent refused the request, or its address is not allowed. Retried only if `on` names it."
    BUDGET = "budget", "What is left of the budget does not hold the most that the call can cost. Never retried."
    BARRIER = "barrier", "Too few of the node's dependencies succeeded, or in time, for its `barrier` to open."
    UPSTREAM = "upstream", "What the node was to take from an earlier run is not on record."
    INTERNAL = "internal", "A bug in agentdag or in an extension; the run's other nodes are not touched."


TRANSIENT = frozenset(
    {
        ErrorKind.RATE_LIMIT,
        ErrorKind.OVERLOADED,
        ErrorKind.SERVER,
        ErrorKind.CONNECTION,
        ErrorKind.TIMEOUT,
        ErrorKind.BAD_RESPONSE,
        ErrorKind.INVALID_OUTPUT,
        ErrorKind.TOOL,
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

    def plain(self) -> dict[str, Any]:
        """As machines read it; what is unknown is left out, but for kind and message."""
        said = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in said.items() if value is not None}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Failure:
        """What `plain` gave; raises ValueError or TypeError where that is not what it is."""
        return cls(**{**plain, "kind": ErrorKind(plain["kind"])})


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


class QueueFull(AgentdagError):
    """As many wait in an `AgentPool` as may."""


class MendableError(AgentdagError):
    """Something around the run is wrong; `hint` says the mend, where it is known."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n  hint: {hint}")
        self.message = message
        self.hint = hint


class UsageError(MendableError):
    """The invocation is wrong: an input, an option, or the environment."""


class StoreError(MendableError):
    """The store cannot be read or written: its folder, its disk, or who else uses it."""


class CallError(AgentdagError):
    """One attempt failed; raised by providers and agents, turned into a value by the engine."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.room: Mapping[str, Any] = {}
        """What the provider told with it of its limits: a `calls.Room`."""
        self.usage: Any = None
        """What the call took, where that was counted although it has failed: a `calls.Usage`."""
        self.refusal = ""
        """The server's whole body, where it has refused the request: it may name a parameter that it does not know."""


class RetryableError(CallError):
    """The same call may succeed later."""


class FinalError(CallError):
    """The same call would fail again."""


def call_error(failure: Failure) -> CallError:
    """The exception for *failure*."""
    return (RetryableError if failure.kind in TRANSIENT and not failure.final else FinalError)(failure)
