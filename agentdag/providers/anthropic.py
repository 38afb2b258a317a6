"""Anthropic; Bedrock and Vertex through the SDK's own clients."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from agentdag.calls import Request
from agentdag.errors import UsageError
from agentdag.providers.addresses import without_query
from agentdag.providers.dialect import Dialect
from agentdag.providers.messages import MessagesWire
from agentdag.providers.proxies import check_proxy
from agentdag.providers.sdk import SdkClient
from agentdag.providers.settings import Settings
from agentdag.providers.structured import JSON_SCHEMA
from agentdag.providers.wire import Wire, WireProvider

_BEARER = "AWS_BEARER_TOKEN_BEDROCK"


class AnthropicProvider(WireProvider):
    """One account at one server."""

    def __init__(self, settings: Settings) -> None:
        import anthropic  # noqa: PLC0415 - heavy: only a run that uses it pays for it

        super().__init__(settings, Dialect(settings.omit, structured=settings.structured or JSON_SCHEMA))
        shared: dict[str, Any] = {
            "max_retries": 0,
            "default_headers": dict(settings.headers) or None,
            "http_client": settings.http.client(anthropic),
        }
        if settings.base_url is not None:
            shared["base_url"], shared["default_query"] = without_query(settings.base_url)
        try:
            client = _client(settings, anthropic, shared)
        except (ImportError, ValueError, RuntimeError, anthropic.AnthropicError) as error:
            hint = f"install the extra: pip install '.[{settings.type}]'" if isinstance(error, ImportError) else None
            raise UsageError(f"`{settings.name}` cannot be reached: {error}", hint=hint) from None
        check_proxy(str(client.base_url))
        self._client = SdkClient(client, anthropic, settings.name, "request-id")
        self._wire = MessagesWire()

    @property
    def base_url(self) -> str:
        return self._client.base_url

    async def models(self, timeout_s: float) -> list[str] | None:
        return await self._client.listed("/v1/models", timeout_s) if self._settings.type == "anthropic" else None

    def _way(self, request: Request) -> tuple[SdkClient, Wire]:  # noqa: ARG002 - there is one way
        return self._client, self._wire


def _client(settings: Settings, anthropic: Any, shared: dict[str, Any]) -> Any:
    if settings.type == "bedrock":
        _need("boto3")
        _need_aws_credentials(settings)
        return anthropic.AsyncAnthropicBedrock(aws_region=settings.region, api_key=settings.api_key, **shared)
    if settings.type == "vertex":
        if settings.api_key is None:  # which is an access token here
            _need("google.auth")
        place = {"region": settings.region, "project_id": settings.project}
        given = {key: value for key, value in place.items() if value is not None}
        return anthropic.AsyncAnthropicVertex(access_token=settings.api_key, **given, **shared)
    return anthropic.AsyncAnthropic(api_key=settings.key("ANTHROPIC_API_KEY"), **shared)


def _need(module: str) -> None:
    top = module.partition(".")[0]
    if importlib.util.find_spec(top) is None or importlib.util.find_spec(module) is None:
        raise ImportError(f"the package {module} is not installed")


def _need_aws_credentials(settings: Settings) -> None:
    """Raise UsageError where no credentials are to be found by which the SDK could sign a request."""
    if settings.api_key or settings.environment.get(_BEARER):
        return
    boto3 = importlib.import_module("boto3")

    if boto3.Session().get_credentials() is None:
        raise UsageError(
            f"`{settings.name}` finds no AWS credentials",
            hint=f"export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or {_BEARER}, or run `aws configure`",
        )
