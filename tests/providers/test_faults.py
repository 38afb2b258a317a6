"""Whatever either SDK can raise is mapped: every exception class of both is walked."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from agentdag.errors import ErrorKind
from agentdag.providers.faults import failure_of, retry_after_s

REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1")
STATUS = {
    "BadRequestError": (400, ErrorKind.BAD_REQUEST),
    "AuthenticationError": (401, ErrorKind.AUTH),
    "OAuthError": (401, ErrorKind.AUTH),
    "PaymentRequiredError": (402, ErrorKind.QUOTA),
    "PermissionDeniedError": (403, ErrorKind.AUTH),
    "NotFoundError": (404, ErrorKind.BAD_REQUEST),
    "RequestTimeoutError": (408, ErrorKind.TIMEOUT),
    "ConflictError": (409, ErrorKind.SERVER),
    "PreconditionFailedError": (412, ErrorKind.BAD_REQUEST),
    "ContentTooLargeError": (413, ErrorKind.TOO_LONG),
    "RequestTooLargeError": (413, ErrorKind.TOO_LONG),
    "UnprocessableEntityError": (422, ErrorKind.BAD_REQUEST),
    "RateLimitError": (429, ErrorKind.RATE_LIMIT),
    "RequestHeaderFieldsTooLargeError": (431, ErrorKind.BAD_REQUEST),
    "ClientClosedRequestError": (499, ErrorKind.BAD_REQUEST),
    "InternalServerError": (500, ErrorKind.SERVER),
    "HTTPNotImplementedError": (501, ErrorKind.SERVER),
    "ServiceUnavailableError": (503, ErrorKind.SERVER),
    "GatewayTimeoutError": (504, ErrorKind.SERVER),
    "OverloadedError": (529, ErrorKind.OVERLOADED),
    "APIStatusError": (418, ErrorKind.BAD_REQUEST),
}
OTHER = {
    "APIConnectionError": ErrorKind.CONNECTION,
    "APITimeoutError": ErrorKind.CONNECTION,
    "APIResponseValidationError": ErrorKind.BAD_RESPONSE,
    "APIWebhookValidationError": ErrorKind.BAD_RESPONSE,
    "LengthFinishReasonError": ErrorKind.BAD_RESPONSE,
    "ContentFilterFinishReasonError": ErrorKind.REFUSED,
    "SubjectTokenProviderError": ErrorKind.AUTH,
    "CredentialsError": ErrorKind.AUTH,
    "IdentityTokenFileError": ErrorKind.AUTH,
    "WorkloadIdentityError": ErrorKind.AUTH,
    "RetryableError": ErrorKind.SERVER,
    "WebSocketConnectionClosedError": ErrorKind.CONNECTION,
    "WebSocketQueueFullError": ErrorKind.CONNECTION,
    "APIError": ErrorKind.BAD_RESPONSE,
    # Only wrong use of an SDK raises these: a bug of ours.
    "OpenAIError": ErrorKind.INTERNAL,
    "AnthropicError": ErrorKind.INTERNAL,
    "_AmbiguousModuleClientUsageError": ErrorKind.INTERNAL,
    "APIRemovedInV1": ErrorKind.INTERNAL,
    "MutuallyExclusiveAuthError": ErrorKind.INTERNAL,
    "StreamAlreadyConsumed": ErrorKind.INTERNAL,
    "MissingDependencyError": ErrorKind.INTERNAL,
    "ToolsetUsageError": ErrorKind.INTERNAL,
    "ToolsetClosedError": ErrorKind.INTERNAL,
    "ToolsetContractError": ErrorKind.INTERNAL,
    "ToolsetsFixedError": ErrorKind.INTERNAL,
    "ToolsetConfigError": ErrorKind.INTERNAL,
}
CODED = {
    "EnforcedSpendLimitReachedError": "enforced_spend_limit_reached",
    "ContractSpendLimitReachedError": "contract_spend_limit_reached",
    "LinkedOrganizationSpendLimitReachedError": "linked_organization_spend_limit_reached",
    "LinkedOrganizationBillingUnavailableError": "linked_organization_billing_unavailable",
    "OrganizationOnHoldError": "organization_on_hold",
}
"""Where the code says more than the status: no money, which waiting does not bring back."""


def status_of(cls: type[Exception]) -> tuple[int, ErrorKind] | None:
    """Status and kind of the nearest class that has them."""
    found = next((STATUS[base.__name__] for base in cls.__mro__ if base.__name__ in STATUS), None)
    return (found[0], ErrorKind.QUOTA) if found and cls.__name__ in CODED else found


def exception_classes(sdk: ModuleType) -> list[type[Exception]]:
    base = sdk.OpenAIError if sdk is openai else sdk.AnthropicError
    found, waiting = [], [base]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls not in found and cls.__module__.split(".")[0] == sdk.__name__:
            found.append(cls)
    return found


ALL = [(sdk, cls) for sdk in (openai, anthropic) for cls in exception_classes(sdk)]


def raised(cls: Any) -> Exception:
    """An instance as the SDK would make it."""
    name = cls.__name__
    if (told := status_of(cls)) is not None:
        status = told[0]
        body = {"error": {"details": {"error_code": CODED[name]}}} if name in CODED else None
        response = httpx2.Response(status, request=REQUEST, headers={"x-request-id": "r", "request-id": "r"})
        return (
            cls("message", response=response, body=body) if name != "OAuthError" else cls(response=response, body=None)
        )
    error = cls.__new__(cls)
    Exception.__init__(error, "message")
    error.message, error.body, error.request = "message", None, REQUEST
    error.request_id = None
    return error


@pytest.mark.parametrize(("sdk", "cls"), ALL, ids=[f"{sdk.__name__}.{cls.__name__}" for sdk, cls in ALL])
def test_every_exception_class_of_both_sdks_is_mapped(sdk: ModuleType, cls: type[Exception]) -> None:
    name = cls.__name__
    told = status_of(cls)
    assert told or name in OTHER, f"{name} is new: say what it means"
    failure = failure_of(raised(cls), "p")
    assert failure.kind is (told[1] if told else OTHER[name])
    assert failure.provider == "p"
    if told:
        assert failure.status == told[0]
        assert failure.request_id == "r"
        assert failure.billed == ("no" if failure.status < 500 or failure.status == 529 else "maybe")


def test_both_sdks_have_exceptions_to_walk() -> None:
    assert len(ALL) > 40
    assert all(inspect.isclass(cls) for _, cls in ALL)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx2.ReadTimeout("x", request=REQUEST), ErrorKind.TIMEOUT),
        (httpx2.ReadError("x", request=REQUEST), ErrorKind.CONNECTION),
        (httpx2.RemoteProtocolError("x", request=REQUEST), ErrorKind.CONNECTION),
        (httpx2.ConnectError("x", request=REQUEST), ErrorKind.CONNECTION),
        (httpx2.PoolTimeout("x", request=REQUEST), ErrorKind.CONNECTION),
        (httpx2.DecodingError("x", request=REQUEST), ErrorKind.CONNECTION),
        (httpx2.UnsupportedProtocol("x", request=REQUEST), ErrorKind.BAD_REQUEST),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), ErrorKind.BAD_RESPONSE),
        (ZeroDivisionError("a bug in an SDK"), ErrorKind.INTERNAL),
    ],
)
def test_bare_transport_errors_are_mapped(error: Exception, kind: ErrorKind) -> None:
    assert failure_of(error, "p").kind is kind


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
        ({"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected
