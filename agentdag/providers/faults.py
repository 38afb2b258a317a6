"""Everything that an SDK can raise, as our failures: kind, status, request id, billed or not.

Told apart by error type and code as well as by status; see the table in FAULTS.
"""

from __future__ import annotations

import email.utils
import errno
import json
import math
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any, NamedTuple

from agentdag.errors import Billed, ErrorKind, Failure
from agentdag.providers.http import BodyTooLargeError

MAX_MESSAGE = 500
MAX_REFUSAL = 4000
"""Characters of a refusal that are looked through for the parameter that it names."""
_DEPTH = 4
"""So deep may bodies stand in the messages of others."""

_BY_WORD = tuple(
    (frozenset(words.split()), kind)
    for words, kind in (
        (
            """insufficient_quota billing_hard_limit_reached billing_error billing_not_active
            enforced_spend_limit_reached contract_spend_limit_reached linked_organization_spend_limit_reached
            linked_organization_billing_unavailable organization_on_hold exceeded_current_quota_error 1008 1113""",
            ErrorKind.QUOTA,
        ),
        (
            """context_length_exceeded request_too_large string_above_max_length exceed_context_size_error
            contextwindowexceedederror""",
            ErrorKind.TOO_LONG,
        ),
        (
            """content_filter content_policy_violation refusal responsibleaipolicyviolation bio_policy
            misalignment_policy_violation image_content_policy_violation""",
            ErrorKind.REFUSED,
        ),
        (
            """invalid_api_key authentication_error permission_error invalid_authentication api_key_invalid
            accessdeniedexception unrecognizedclientexception expiredtokenexception invalidsignatureexception""",
            ErrorKind.AUTH,
        ),
        (
            """rate_limit_error rate_limit_exceeded requests tokens too_many_requests too_many_requests_error
            request_quota_exceeded resource_exhausted throttlingexception throttling""",
            ErrorKind.RATE_LIMIT,
        ),
        (
            """overloaded_error overloaded engine_overloaded_error resource_unavailable model_capacity_exhausted
            serviceunavailableexception""",
            ErrorKind.OVERLOADED,
        ),
        ("tool_use_failed json_validate_failed", ErrorKind.BAD_RESPONSE),
        ("timeout_error modeltimeoutexception gatewaytimeout", ErrorKind.TIMEOUT),
        (
            """api_error server_error internal_error internal_server_error internalserverexception
            modelstreamerrorexception modelerrorexception modelnotreadyexception unavailable_error""",
            ErrorKind.SERVER,
        ),
        (
            """invalid_request_error not_found_error invalid_prompt validationexception unsupported_parameter
            invalid_parameter_error""",
            ErrorKind.BAD_REQUEST,
        ),
    )
)
"""The types and codes by which servers name an error, in small letters."""
_GENERIC = frozenset({ErrorKind.SERVER, ErrorKind.BAD_REQUEST})
"""Kinds that servers name where they know no better; a status says more."""
_ABOUT_PACE = re.compile(
    r"rate limit|too many requests|please wait|per minute limit exceeded|try again in", re.IGNORECASE
)
_NEVER_FITS = re.compile(r"request too large|request is too large", re.IGNORECASE)
"""Said of a single request that is larger than all that a minute allows: waiting is no cure."""
_QUOTA_SAID = (
    r"credit balance is too low|exceeded your current quota|insufficient (balance|credits)|"
    r"used all available credits|monthly spending limit|requires more credits"
)
_TOO_LONG_SAID = (
    # OpenAI, Anthropic, vLLM, SGLang, llama.cpp, LM Studio, Bedrock, Gemini, xAI, Cerebras, MiniMax, Kimi, Mistral,
    # DashScope, text-generation-inference, llama-cpp-python and LiteLLM, in about this order
    r"prompt (is )?too long|prompt exceeds max length|maximum context length|context ?window|"
    r"longer than the model'?s context length|exceeds the maximum allowed length|"
    r"exceeds the available context size|context size has been exceeded|greater than the context length|"
    r"context length of only|input is too long for|input token count.*exceeds|maximum prompt length|"
    r"reduce the length of the messages|current length is .* while limit is|exceed context limit|"
    r"exceeded model token limit|range of input length should be|must have less than \d+ tokens|"
    r"`?inputs`? tokens \+ `?max_new_tokens`?|max_tokens must be at least 1, got -"
)
_AUTH_SAID = r"(incorrect|invalid) (x-)?api[ -]key|api key not valid|authentication fails"
_OVERLOADED_SAID = r"no capacity available|resource unavailable|service tier capacity exceeded|server (is )?overloaded"
_SAID = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (_QUOTA_SAID, ErrorKind.QUOTA),
        (_TOO_LONG_SAID, ErrorKind.TOO_LONG),
        (_AUTH_SAID, ErrorKind.AUTH),
        (_OVERLOADED_SAID, ErrorKind.OVERLOADED),
    )
)
"""What servers say in words where their types and codes do not, or mislead."""
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
_UNPAID = frozenset({ErrorKind.RATE_LIMIT, ErrorKind.OVERLOADED, ErrorKind.AUTH, ErrorKind.QUOTA})
"""Nothing was computed for these."""
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
    "ParserError": ErrorKind.BAD_RESPONSE,  # of Bedrock's frames
    "NoCredentialsError": ErrorKind.AUTH,
    "DefaultCredentialsError": ErrorKind.AUTH,
    "RefreshError": ErrorKind.AUTH,
    "GoogleAuthError": ErrorKind.AUTH,
}


def failure_of(error: Exception, provider: str) -> Failure:
    """The failure that *error*, raised by an SDK or by its transport, means."""
    names = [cls.__name__ for cls in type(error).__mro__]
    if "APIStatusError" in names:
        return _status_failure(error, provider)
    for name in names:
        if name in _BY_CLASS:
            kind = _BY_CLASS[name]
            return Failure(kind, _short(str(error)), provider, billed="no" if kind in _UNPAID else "maybe")
    if "credentials" in str(error).lower() and "APIError" not in names:
        return Failure(ErrorKind.AUTH, _short(str(error)), provider)
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


def is_error(body: Any) -> bool:
    """Whether *body*, which came with status 200, tells of an error instead of an answer, in whatever shape."""
    if isinstance(body, list):
        return bool(body) and isinstance(body[0], Mapping) and is_error(body[0])
    if not isinstance(body, Mapping):
        return False
    if body.get("error"):
        return True
    if body.get("choices") or body.get("content") or body.get("output"):
        return False
    if body.get("type") == "error" or str(body.get("object")).lower() == "error":
        return True
    about = body.get("base_resp")
    if isinstance(about, Mapping) and about.get("status_code"):
        return True
    return bool(body.get("detail") or body.get("message")) and not _ANSWERS & body.keys()


_ANSWERS = frozenset({"choices", "content", "output", "id", "type", "response", "delta", "usage"})
"""Keys of which an answer, or an event, has at least one."""


def error_body_failure(body: Any, provider: str, request_id: str | None, *, billed: bool) -> Failure:
    """The failure that *body* tells of in an answer with status 200; *billed* where some of the answer came before."""
    told = _told(body)
    kind = _kind(200, told)
    free = kind in _UNPAID and not billed
    message = _short(told.message) or "the server reports an error and does not say which"
    return Failure(kind, message, provider, 200, request_id, "no" if free else "maybe", final=_is_hopeless(kind, told))


def refusal_text(body: Any) -> str:
    """What a server said, with all names in it, to look for the parameter that it means."""
    return (body if isinstance(body, str) else json.dumps(body, default=str))[:MAX_REFUSAL]


def _status_failure(error: Any, provider: str) -> Failure:
    status, headers = error.status_code, error.response.headers
    told = _told(_body_of(error))
    words = {str(word).lower() for word in (getattr(error, "code", None), getattr(error, "type", None)) if word}
    told = told._replace(words=told.words | words, message=told.message or error.message)
    message = told.message
    if message.lstrip().startswith("<"):
        message = f"answered an HTML page with status {status}"
    if 300 <= status < 400:
        message = f"redirects to {headers.get('location')}: put the final address into `base_url`"
    kind = _kind(status, told)
    billed: Billed = "no" if 400 <= status < 500 or kind is ErrorKind.OVERLOADED else "maybe"
    if kind is ErrorKind.BAD_RESPONSE:  # the model's own fault: it has answered
        billed = "maybe"
    request_id = headers.get("x-request-id") or headers.get("request-id")
    wait_s = retry_after_s(headers)
    final = headers.get("x-should-retry") == "false" or _is_hopeless(kind, told)
    return Failure(kind, _short(message), provider, status, request_id, billed, wait_s, final)


def _body_of(error: Any) -> Any:
    """The whole body of the answer: the SDKs keep only what stands under its `error`."""
    try:
        return json.loads(error.response.content)
    except Exception:  # noqa: BLE001 - the SDK has not read it, or it is no JSON
        return error.body


def _event_failure(error: Any, provider: str) -> Failure:
    told = _told(error.body)
    words = {str(word).lower() for word in (getattr(error, "code", None), getattr(error, "type", None)) if word}
    told = told._replace(words=told.words | words, message=told.message or error.message)
    return Failure(_kind(200, told), _short(told.message), provider, 200, billed="maybe")


class _Told(NamedTuple):
    """What a body says of an error: in words, by types and codes in small letters, and by a status inside it."""

    message: str = ""
    words: frozenset[str] = frozenset()
    status: int | None = None


_CODES = ("type", "code", "status", "error_type", "__type", "reason", "error_code", "status_code")
_WORDS = ("message", "detail", "error", "errors", "status_msg", "title", "msg", "description")
_BESIDE = ("details", "innererror", "base_resp")


def _told(body: Any, depth: int = 0) -> _Told:
    """What *body* says of an error, whatever its shape."""
    if depth > _DEPTH:
        return _Told()
    if isinstance(body, str):
        return _told_in_text(body, depth)
    if isinstance(body, list):
        every = [_told(each, depth + 1) for each in body]
        told = every[0] if every else _Told()
        return told._replace(message="; ".join(each.message for each in every if each.message))
    return _told_in_object(body, depth) if isinstance(body, Mapping) else _Told()


def _told_in_object(body: Mapping[str, Any], depth: int) -> _Told:
    codes = {str(body[key]).lower() for key in _CODES if isinstance(body.get(key), (str, int))} - {"error", "true"}
    status = next((int(code) for code in codes if code.isdigit() and 400 <= int(code) < 600), None)
    said = [_told(body[key], depth + 1) for key in _WORDS if body.get(key)]
    said += [_told(body[key], depth + 1) for key in _BESIDE if isinstance(body.get(key), (Mapping, list))]
    message = next((each.message for each in said if each.message), "")
    about = body.get("metadata")
    if isinstance(about, Mapping) and about.get("raw"):  # what a gateway was told itself
        said.append(_told(about["raw"], depth + 1))
        message = ": ".join(dict.fromkeys(filter(None, (message, said[-1].message))))
    if message and isinstance(body.get("loc"), list):
        message = f"{'.'.join(map(str, body['loc']))}: {message}"
    inner = next((each.status for each in said if each.status is not None), None)
    return _Told(message, frozenset(codes).union(*(each.words for each in said)), status or inner)


def _told_in_text(text: str, depth: int) -> _Told:
    """A message that may be a whole body again."""
    if text.lstrip()[:1] in {"{", "["}:
        try:
            inner = _told(json.loads(text), depth + 1)
        except (ValueError, RecursionError):
            return _Told(text)
        return inner if inner.message else _Told(text)
    return _Told(text)


def _kind(status: int, told: _Told) -> ErrorKind:
    status = told.status if status == 200 and told.status is not None else status
    message = told.message
    if _NEVER_FITS.search(message):
        return ErrorKind.TOO_LONG
    for said, kind in _SAID:
        if said.search(message) and not (kind is ErrorKind.TOO_LONG and _ABOUT_PACE.search(message)):
            return kind
    for known, kind in _BY_WORD:
        if told.words & known and (kind not in _GENERIC or status == 200):
            return kind
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status == 200:
        return ErrorKind.BAD_RESPONSE
    return ErrorKind.SERVER if status >= 500 else ErrorKind.BAD_REQUEST


def _is_hopeless(kind: ErrorKind, told: _Told) -> bool:
    """Whether the same request will fail again although its kind of failure passes."""
    return kind is ErrorKind.TOO_LONG and bool(_NEVER_FITS.search(told.message))


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
        return Failure(ErrorKind.CONNECTION, f"cannot connect{_whither(chain) or f': {words}'}", provider)
    if names & {"ReadTimeout", "SocketTimeoutError", "WriteTimeout"}:
        return Failure(ErrorKind.TIMEOUT, words or "the connection stalled", provider, billed="maybe")
    if "PoolTimeout" in names:
        return Failure(ErrorKind.CONNECTION, "no connection became free", provider)
    if "ConnectionTimeoutError" in names:
        return Failure(ErrorKind.CONNECTION, "no connection within 10 s", provider)
    if names & {"TransportError", "DecodingError", "RequestError", "APIConnectionError", "ClientError", "error"}:
        return Failure(ErrorKind.CONNECTION, f"the connection broke: {words}", provider, billed="maybe")
    return None


def _whither(chain: Sequence[BaseException]) -> str:
    """To where there was no connection and why, in the words of the system; nothing where that is not known."""
    for link in chain:
        why, host, port = (getattr(link, name, None) for name in ("os_error", "host", "port"))
        if isinstance(why, OSError) and host:
            refused = isinstance(why, ConnectionRefusedError) or why.errno == errno.ECONNREFUSED
            return " " + _short(f"to {host}:{port}: {'connection refused' if refused else why.strerror or why}")
    return ""


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
