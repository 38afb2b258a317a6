"""OpenAI, Azure, and every server that speaks one of OpenAI's protocols."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from agentdag.calls import Request
from agentdag.errors import UsageError
from agentdag.providers.addresses import is_openais_own, without_query
from agentdag.providers.chat import ChatWire
from agentdag.providers.dialect import MAX_COMPLETION_TOKENS, MAX_TOKENS, REASONING_CONTENT, Dialect
from agentdag.providers.proxies import check_proxy
from agentdag.providers.responses import ResponsesWire, says_what_only_chat_knows
from agentdag.providers.sdk import SdkClient
from agentdag.providers.settings import Settings, whole_key
from agentdag.providers.structured import JSON_SCHEMA
from agentdag.providers.wire import Wire, WireProvider

RESPONSES, CHAT, AUTO = "responses", "chat", "auto"
_RETURNED = (
    (re.compile(r"(^|\.)openrouter\.ai$"), "reasoning_details"),
    (re.compile(r"(^|\.)(deepseek\.com|moonshot\.(ai|cn)|minimax(i)?\.(io|com|chat))$"), REASONING_CONTENT),
)
"""Servers that want the model's reasoning back in a conversation with tools, and under which key:
https://openrouter.ai/docs/use-cases/reasoning-tokens https://api-docs.deepseek.com/guides/thinking_mode"""
_FIRST_AZURE_RESPONSES = "2025-03-01-preview"
_AZURE_CHAT_VERSION = "2024-10-21"
_AZURE_V1 = "/openai/v1"


class OpenAIProvider(WireProvider):
    """One account at one server."""

    def __init__(self, settings: Settings) -> None:
        import openai  # noqa: PLC0415 - heavy: only a run that uses it pays for it

        shared: dict[str, Any] = {
            "max_retries": 0,
            "default_headers": dict(settings.headers) or None,
            "http_client": settings.http.client(openai),
        }
        if settings.type == "azure":
            chat, responses = _azure(settings, openai, shared)
        else:
            key = settings.key("OPENAI_API_KEY")
            base_url, query = without_query(settings.base_url)
            chat = responses = openai.AsyncOpenAI(api_key=key, base_url=base_url, default_query=query, **shared)
        check_proxy(str(chat.base_url))
        self._chat_client = SdkClient(chat, openai, settings.name, "x-request-id")
        self._responses_client = None
        if responses is not None:
            self._responses_client = SdkClient(responses, openai, settings.name, "x-request-id")
        host = urlsplit(self._chat_client.base_url).hostname or ""
        is_own = is_openais_own(self._chat_client.base_url)
        self._api = settings.api or AUTO
        self._speaks_responses = self._api == RESPONSES or (self._api == AUTO and is_own and responses is not None)
        self._chat = ChatWire(takes_cache_keys=is_own)
        self._responses = ResponsesWire()
        longest = MAX_TOKENS if settings.type == "openai" and not is_own else MAX_COMPLETION_TOKENS
        returned = next((field for hosts, field in _RETURNED if hosts.search(host)), None)
        super().__init__(
            settings,
            Dialect(settings.omit, settings.max_tokens_field or longest, settings.structured or JSON_SCHEMA, returned),
        )

    @property
    def base_url(self) -> str:
        return self._chat_client.base_url

    async def models(self, timeout_s: float) -> list[str] | None:
        listed = await self._chat_client.listed("/models", timeout_s)
        return None if self._settings.type == "azure" else listed  # which lists models, not deployments

    def _way(self, request: Request) -> tuple[SdkClient, Wire]:
        """Responses where the server speaks it, but for parameters that only chat completions have."""
        client = self._responses_client
        if not self._speaks_responses or client is None or (self._api == AUTO and says_what_only_chat_knows(request)):
            return self._chat_client, self._chat
        return client, self._responses


def _azure(settings: Settings, openai: Any, shared: Mapping[str, Any]) -> tuple[Any, Any]:
    """The clients for chat completions and for Responses. The latter stand under the address of version 1, which needs
    no `api-version`, or under that of a version which has them; None where the file names an older one."""
    endpoint = settings.base_url or settings.environment.get("AZURE_OPENAI_ENDPOINT")
    if not endpoint:
        raise UsageError(
            f"`{settings.name}` needs the endpoint of your Azure resource",
            hint="write `base_url: https://NAME.openai.azure.com`, or export AZURE_OPENAI_ENDPOINT",
        )
    key = settings.api_key or whole_key(settings.environment.get("AZURE_OPENAI_API_KEY", ""), "AZURE_OPENAI_API_KEY")
    if not key:
        raise UsageError(f"`{settings.name}` needs an API key", hint="export AZURE_OPENAI_API_KEY=...")
    settings.secrets.add(key)
    endpoint = endpoint.rstrip("/")

    def first_version(base_url: str) -> Any:
        headers = {"api-key": key, **settings.headers}
        return openai.AsyncOpenAI(api_key=key, base_url=base_url, **{**shared, "default_headers": headers})

    if endpoint.endswith(_AZURE_V1):
        client = first_version(endpoint)
        return client, client
    said = settings.api_version or settings.environment.get("OPENAI_API_VERSION")
    version = said or _AZURE_CHAT_VERSION
    chat = openai.AsyncAzureOpenAI(azure_endpoint=endpoint, api_key=key, api_version=version, **shared)
    if said is None:
        return chat, first_version(f"{endpoint}{_AZURE_V1}")
    return chat, chat if said >= _FIRST_AZURE_RESPONSES else None
