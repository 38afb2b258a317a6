"""OpenAI's chat completions, which also most local servers and gateways speak; Azure through the SDK.

Protocol: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agentdag.calls import OnDelta, Reply, Request, Usage, estimate_tokens
from agentdag.errors import ErrorKind, Failure, UsageError, call_error
from agentdag.providers.sdk import SdkClient, Told, count
from agentdag.providers.settings import Settings

_PATH = "/chat/completions"
_REASONING = ("reasoning_content", "reasoning")
"""Where servers stream what a model thinks before it answers."""


class OpenAIProvider:
    """One account at one server."""

    def __init__(self, settings: Settings) -> None:
        import openai  # noqa: PLC0415 - heavy: only a run that uses it pays for it

        self._settings = settings
        own_server = settings.base_url is not None and settings.type == "openai"
        self._takes_cache_keys = not own_server
        self._max_tokens_field = settings.max_tokens_field or ("max_tokens" if own_server else "max_completion_tokens")
        shared: dict[str, Any] = {
            "max_retries": 0,
            "default_headers": dict(settings.headers) or None,
            "http_client": settings.http.client(openai),
        }
        if settings.type == "azure":
            client = self._azure(openai, shared)
        else:
            key = settings.key("OPENAI_API_KEY")
            client = openai.AsyncOpenAI(api_key=key, base_url=settings.base_url, **shared)
        self._sdk = SdkClient(client, openai, settings.name, "x-request-id")

    def _azure(self, openai: Any, shared: Mapping[str, Any]) -> Any:
        settings = self._settings
        endpoint = settings.base_url or settings.environment.get("AZURE_OPENAI_ENDPOINT")
        if not endpoint:
            raise UsageError(
                f"`{settings.name}` needs the endpoint of your Azure resource",
                hint="write `base_url: https://NAME.openai.azure.com`, or export AZURE_OPENAI_ENDPOINT",
            )
        key = settings.api_key or settings.environment.get("AZURE_OPENAI_API_KEY")
        if not key:
            raise UsageError(f"`{settings.name}` needs an API key", hint="export AZURE_OPENAI_API_KEY=...")
        settings.secrets.add(key)
        version = settings.api_version or settings.environment.get("OPENAI_API_VERSION") or "2024-10-21"
        return openai.AsyncAzureOpenAI(azure_endpoint=endpoint, api_key=key, api_version=version, **shared)

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply:
        """The answer to *request*; streamed where it says so. Raises CallError only."""
        body = self._body(request)
        stream = request.stream if self._settings.stream is None else self._settings.stream
        if stream:
            return await self._streamed(request, body, on_delta)
        answer, told = await self._sdk.post(_PATH, body, request.timeout_s)
        return self._whole(request, answer, told)

    def _whole(self, request: Request, answer: dict[str, Any], told: Told) -> Reply:
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise self._sdk.fail("the answer has no choices", told.request_id)
        message = choice["message"]
        if message.get("refusal"):
            raise self._refused(str(message["refusal"]), told.request_id)
        text = _text(message.get("content"))
        return self._reply(request, text, choice.get("finish_reason"), answer.get("usage"), told, None)

    async def _streamed(self, request: Request, body: dict[str, Any], on_delta: OnDelta) -> Reply:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        pieces: list[str] = []
        finish, usage, ttft_s, refusal = None, None, None, ""
        started = time.monotonic()
        async with self._sdk.stream(_PATH, body, request.timeout_s) as (events, told):
            if isinstance(events, dict):
                return self._whole(request, events, told)
            on_delta("")
            async for event in events:
                if not isinstance(event, dict):
                    raise self._sdk.fail("the stream holds JSON that is no object", told.request_id)
                usage = event.get("usage") or usage
                choices = event.get("choices")
                choice = choices[0] if isinstance(choices, list) and choices else None
                if not isinstance(choice, dict):
                    continue
                finish = choice.get("finish_reason") or finish
                delta = choice.get("delta")
                if not isinstance(delta, dict):
                    continue
                refusal += str(delta.get("refusal") or "")
                if piece := _text(delta.get("content")):
                    ttft_s = time.monotonic() - started if ttft_s is None else ttft_s
                    pieces.append(piece)
                if piece or any(delta.get(key) for key in _REASONING):
                    on_delta(piece)
        if refusal:
            raise self._refused(refusal, told.request_id)
        if finish is None:
            raise self._sdk.fail("the stream ended without its end marker", told.request_id)
        return self._reply(request, "".join(pieces), finish, usage, told, ttft_s)

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        messages = [{"role": "system", "content": request.system}] if request.system is not None else []
        messages.append({"role": "user", "content": request.prompt})
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        given = {
            self._max_tokens_field: sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "reasoning_effort": sampling.reasoning_effort,
            "prompt_cache_key": request.cache_key if self._takes_cache_keys else None,
        }
        body |= {key: value for key, value in given.items() if value is not None}
        return body | dict(sampling.params)

    def _reply(self, request: Request, text: str, finish: Any, usage: Any, told: Told, ttft_s: float | None) -> Reply:
        if finish == "content_filter":
            raise self._refused("the content filter stopped the answer", told.request_id)
        if not isinstance(finish, str):
            raise self._sdk.fail("the answer has no finish_reason", told.request_id)
        if not text:
            cut = finish == "length"
            message = "max_tokens was spent before any text came" if cut else "the answer is empty"
            raise self._sdk.fail(message, told.request_id, final=cut)
        return Reply(text, _usage(usage, request, text), finish, told.request_id, ttft_s, told.room)

    def _refused(self, message: str, request_id: str | None) -> Exception:
        name = self._settings.name
        return call_error(Failure(ErrorKind.REFUSED, message[:500], name, 200, request_id, billed="yes"))

    async def aclose(self) -> None:
        """Nothing to close: the HTTP client is the run's."""


def _text(content: Any) -> str:
    """A message's text; some servers send it in parts."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _usage(usage: Any, request: Request, text: str) -> Usage:
    """Tokens as counted; estimated from the texts where the server counted none."""
    told = usage if isinstance(usage, dict) else {}
    given, made = count(told.get("prompt_tokens")), count(told.get("completion_tokens"))
    details = told.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if given is None or made is None:
        asked = (request.system or "") + request.prompt
        return Usage(estimate_tokens(asked), estimate_tokens(text), 0, estimated=True)
    return Usage(given, made, cached or 0)
