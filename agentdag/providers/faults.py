"""Everything that an SDK can raise, as our failures: kind, status, request id, billed or not.

Told apart by error type and code as well as by status; see the table in FAULTS.
"""

from __future__ import annotations

import email.utils
import json
import math
import ssl
import time
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from agentdag.errors import Billed, ErrorKind, Failure
from agentdag.providers.http import BodyTooLargeError

MAX_MESSAGE = 500

_QUOTA = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_error",
        "billing_not_active",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "organization_on_hold",
    }
)
_TOO_LONG = frozenset({"context_length_exceeded", "request_too_large", "string_above_max_length"})
_REFUSED = frozenset({"content_filter", "content_policy_violation", "refusal", "ResponsibleAIPolicyViolation"})
_AUTH = frozenset({"invalid_api_key", "authentication_error", "permission_error", "invalid_authentication"})
_RATE = frozenset({"rate_limit_error", "rate_limit_exceeded", "requests", "tokens", "too_many_requests"})
_OVERLOADED = frozenset({"overloaded_error", "overloaded"})
_SERVER = frozenset({"api_error", "server_error", "internal_error", "internal_server_error"})
_BY_WORD = (
    (_QUOTA, ErrorKind.QUOTA),
    (_TOO_LONG, ErrorKind.TOO_LONG),
    (_REFUSED, ErrorKind.REFUSED),
    (_AUTH, ErrorKind.AUTH),
    (_RATE, ErrorKind.RATE_LIMIT),
    (_OVERLOADED, ErrorKind.OVERLOADED),
    (_SERVER, ErrorKind.SERVER),
    (frozenset({"timeout_error"}), ErrorKind.TIMEOUT),
    (frozenset({"invalid_request_error", "not_found_error"}), ErrorKind.BAD_REQUEST),
)
_GENERIC = frozenset({ErrorKind.SERVER, ErrorKind.BAD_REQUEST})
"""Kinds that servers name where they know no better; a status says more."""
_BY_PHRASE = (
    ("credit balance is too low", ErrorKind.QUOTA),
    ("prompt is too long", ErrorKind.TOO_LONG),
    ("maximum context length", ErrorKind.TOO_LONG),
    ("context window", ErrorKind.TOO_LONG),
)
_BY_STATUS = {
    401: ErrorKind.AUTH,
    402: ErrorKind.QUOTA,
    403: ErrorKind.AUTH,
    408: ErrorKind.TIMEOUT,
    409: ErrorKind.SERVER,
    413: ErrorKind.TOO_LONG,
    429: ErrorKind.RATE_LIMIT,
    529: ErrorKind.OVERLOADED,
}
_BY_CLASS = {
    "APIResponseValidationError": ErrorKind.BAD_RESPONSE,
    "APIWebhookValidationError": ErrorKind.BAD_RESPONSE,
    "LengthFinishReasonError": ErrorKind.BAD_RESPONSE,
    "ContentFilterFinishReasonError": ErrorKind.REFUSED,
    "CredentialsError": ErrorKind.AUTH,
    "IdentityTokenFileError": ErrorKind.AUTH,
    "WorkloadIdentityError": ErrorKind.AUTH,
    "SubjectTokenProviderError": ErrorKind.AUTH,
    "OAuthError": ErrorKind.AUTH,
    "RetryableError": ErrorKind.SERVER,
    "WebSocketConnectionClosedError": ErrorKind.CONNECTION,
    "WebSocketQueueFullError": ErrorKind.CONNECTION,
}


def failure_of(error: Exception, provider: str) -> Failure:
    """The failure that *error*, raised by an SDK or by its transport, means."""
    names = [cls.__name__ for cls in type(error).__mro__]
    if "APIStatusError" in names:
        return _status_failure(error, provider)
    for name in names:
        if name in _BY_CLASS:
            return Failure(_BY_CLASS[name], _short(str(error)), provider, billed="maybe")
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return bad_response(f"the answer is no JSON: {error}", provider)
    transport = _transport_failure(error, provider)
    if transport is not None:
        return transport
    if "APIError" in names:  # an error event in a stream with status 200
        return _event_failure(error, provider)
    return Failure(ErrorKind.INTERNAL, _short(f"{type(error).__name__}: {error}"), provider, billed="maybe")


def bad_response(message: str, provider: str, *, request_id: str | None = None, final: bool = False) -> Failure:
    """An answer that is no answer; it may have been billed."""
    return Failure(
        ErrorKind.BAD_RESPONSE,
        _short(message),
        provider,
        status=200,
        request_id=request_id,
        billed="maybe",
        final=final,
    )


def error_body_failure(body: Any, provider: str, request_id: str | None) -> Failure:
    """The failure told by `{"error": ...}` in an answer with status 200."""
    message, words = _told(body)
    kind = _kind(200, words, message)
    return Failure(kind, _short(message), provider, 200, request_id, "maybe")


def _status_failure(error: Any, provider: str) -> Failure:
    status, headers = error.status_code, error.response.headers
    message, words = _told(error.body)
    words |= {str(word) for word in (getattr(error, "code", None), getattr(error, "type", None)) if word}
    message = message or error.message
    if message.lstrip().startswith("<"):
        message = f"answered an HTML page with status {status}"
    if 300 <= status < 400:
        message = f"redirects to {headers.get('location')}: put the final address into `base_url`"
    kind = _kind(status, words, message)
    billed: Billed = "no" if 400 <= status < 500 or kind is ErrorKind.OVERLOADED else "maybe"
    request_id = headers.get("x-request-id") or headers.get("request-id")
    wait_s = retry_after_s(headers)
    final = headers.get("x-should-retry") == "false"
    return Failure(kind, _short(message), provider, status, request_id, billed, wait_s, final)


def _event_failure(error: Any, provider: str) -> Failure:
    message, words = _told(error.body)
    words |= {str(word) for word in (getattr(error, "code", None), getattr(error, "type", None)) if word}
    message = message or error.message
    return Failure(_kind(200, words, message), _short(message), provider, 200, billed="maybe")


def _told(body: Any) -> tuple[str, set[str]]:
    """The message in an error's body, and its type and code."""
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping):
            words = {str(inner[key]) for key in ("type", "code") if inner.get(key)}
            details = inner.get("details")
            if isinstance(details, Mapping) and details.get("error_code"):
                words.add(str(details["error_code"]))
            return str(inner.get("message") or ""), words
        return str(inner), set()
    return (body if isinstance(body, str) else ""), set()


def _kind(status: int, words: set[str], message: str) -> ErrorKind:
    lower = message.lower()
    for phrase, kind in _BY_PHRASE:
        if phrase in lower:
            return kind
    for known, kind in _BY_WORD:
        if words & known and (kind not in _GENERIC or status == 200):
            return kind
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status == 200:
        return ErrorKind.BAD_RESPONSE
    return ErrorKind.SERVER if status >= 500 else ErrorKind.BAD_REQUEST


def _transport_failure(error: Exception, provider: str) -> Failure | None:
    """What the connection did, told by the whole chain of causes; None where it did nothing."""
    chain = list(_causes(error))
    names = {cls.__name__ for link in chain for cls in type(link).__mro__}
    telling = [link for link in chain if type(link).__module__.startswith("aiohttp")] or chain[::-1]
    words = _short(next((str(link) for link in telling if str(link)), type(error).__name__))
    if any(isinstance(link, BodyTooLargeError) for link in chain):
        return bad_response(words, provider, final=True)
    if any(isinstance(link, ssl.SSLError) for link in chain) or "ClientSSLError" in names:
        return Failure(ErrorKind.CONNECTION, f"TLS failed: {words}", provider, final=True)
    if names & {"UnsupportedProtocol", "InvalidURL", "NonHttpUrlClientError"}:
        return Failure(ErrorKind.BAD_REQUEST, f"this base_url cannot be reached: {words}", provider)
    if "ClientConnectorError" in names or ("ConnectError" in names and "ClientConnectionError" not in names):
        return Failure(ErrorKind.CONNECTION, f"cannot connect: {words}", provider)
    if names & {"ReadTimeout", "SocketTimeoutError", "WriteTimeout"}:
        return Failure(ErrorKind.TIMEOUT, words or "the connection stalled", provider, billed="maybe")
    if "PoolTimeout" in names:
        return Failure(ErrorKind.CONNECTION, "no connection became free", provider)
    if "ConnectionTimeoutError" in names:
        return Failure(ErrorKind.CONNECTION, "no connection within 10 s", provider)
    if names & {"TransportError", "DecodingError", "RequestError", "APIConnectionError", "ClientError", "error"}:
        return Failure(ErrorKind.CONNECTION, f"the connection broke: {words}", provider, billed="maybe")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a date."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return _finite(float(milliseconds) / 1000)
        after = headers.get("retry-after")
        return None if after is None else _finite(float(after))
    except ValueError:
        pass
    after = headers.get("retry-after")
    try:
        date = email.utils.parsedate_to_datetime(after or "")
        return _finite(date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _finite(seconds: float) -> float | None:
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"
