"""A node that sends a request to a remote agent. Its status is an error of ours; an answer in JSON is a value.

The address is checked where the connection is made: not what a name looks like counts, but where it leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from agentdag.agents.agent import Outcome, Task
from agentdag.agents.answers import Reader, parsed, read_value
from agentdag.calls import NO_USAGE, Usage
from agentdag.errors import ErrorKind, Failure, FinalError, UsageError, call_error
from agentdag.language.addresses import is_private
from agentdag.limits.turn import Attempt
from agentdag.providers.faults import retry_after_s
from agentdag.providers.proxies import check_proxy, proxy_of

MAX_BODY_BYTES = 32 * 2**20
MAX_HOPS = 5
"""Redirects that a request without a body follows."""
CONNECT_TIMEOUT_S = 10.0
TOLD_BODY = 300
"""Characters of an answer that its error quotes."""
_BY_STATUS = {
    401: ErrorKind.AUTH,
    402: ErrorKind.QUOTA,
    403: ErrorKind.AUTH,
    408: ErrorKind.TIMEOUT,
    413: ErrorKind.TOO_LONG,
    429: ErrorKind.RATE_LIMIT,
    529: ErrorKind.OVERLOADED,
}
_REDIRECTS = {301, 302, 303, 307, 308}
_SEE_OTHER = {301, 302, 303}
"""After these, what was to be changed is read: RFC 9110, 15.4."""


class HttpRequest(NamedTuple):
    """What is sent to whom. *private* says whether it may be an address of this machine or of its network."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    private: bool = False


class HttpAnswer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    charset: str
    is_json: bool


class PrivateAddressError(Exception):
    """The request would go to an address of this machine or of its network."""


class HttpClient:
    """The connections of a run's `http` nodes, made when the first of them acts."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._sessions: dict[bool, Any] = {}

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """The answer to *request*. Raises what aiohttp does, PrivateAddressError, and FinalError of one too large."""
        url, method, headers = request.url, request.method, dict(request.headers)
        for _ in range(MAX_HOPS + 1):
            host = urlsplit(url).hostname or ""
            if not request.private and is_private(host):
                raise PrivateAddressError(host)
            proxy = proxy_of(url)
            if proxy is not None:
                check_proxy(url)
                if not request.private:
                    await _check_public(host)
            session = self._session(private=request.private or proxy is not None)  # the proxy itself may be near
            address = None if proxy is None else proxy.address
            async with session.request(
                method, url, headers=headers, data=request.body, allow_redirects=False, proxy=address
            ) as response:
                target = response.headers.get("location")
                if response.status not in _REDIRECTS or target is None or request.body is not None:
                    return await _read(response)
                following = str(response.url.join(type(response.url)(target)))
            if response.status in _SEE_OTHER and method not in {"GET", "HEAD"}:
                method = "GET"
            if urlsplit(following)[:2] != urlsplit(url)[:2]:
                headers = {}  # they may hold keys, which are for whom the file names
            url = following
        raise FinalError(Failure(ErrorKind.HTTP, f"redirected more than {MAX_HOPS} times", final=True))

    def _session(self, *, private: bool) -> Any:
        import aiohttp  # noqa: PLC0415 - heavy: only a run that has such a node pays for it

        if private not in self._sessions:
            resolver = None if private else _public_resolver()
            connector = aiohttp.TCPConnector(limit=self._connections, resolver=resolver)
            self._sessions[private] = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S),
                headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._sessions[private]

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()


async def _check_public(host: str) -> None:
    """Raise PrivateAddressError where *host*, which a proxy will look up, leads to a private address from here, too."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None)
    except OSError:
        return  # only the proxy knows it
    for *_, address in found:
        if is_private(str(address[0])):
            raise PrivateAddressError(f"{host} is {address[0]}")


def _public_resolver() -> Any:
    """A resolver that refuses names which lead to private addresses."""
    from aiohttp.resolver import ThreadedResolver  # noqa: PLC0415 - loaded already where it is asked

    class PublicResolver(ThreadedResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> Any:
            found = await super().resolve(host, port, family)
            for each in found:
                if is_private(each["host"]):
                    raise PrivateAddressError(f"{host} is {each['host']}")
            return found

    return PublicResolver()


async def _read(response: Any) -> HttpAnswer:
    """The whole answer, which is bounded."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        message = "the answer is compressed although that was not asked for"
        raise FinalError(Failure(ErrorKind.BAD_RESPONSE, message, status=response.status, final=True))
    parts: list[bytes] = []
    left = MAX_BODY_BYTES
    async for part in response.content.iter_chunked(2**16):
        left -= len(part)
        if left < 0:
            message = f"the answer is larger than {MAX_BODY_BYTES // 2**20} MiB"
            raise FinalError(Failure(ErrorKind.BAD_RESPONSE, message, status=response.status, final=True))
        parts.append(part)
    kind = response.content_type or ""
    is_json = kind == "application/json" or kind.endswith("+json")
    return HttpAnswer(response.status, response.headers, b"".join(parts), response.charset or "utf-8", is_json)


@dataclass(frozen=True, slots=True)
class HttpAgent:
    """Sends *request*. The answer must be what *reader* reads, where there is one; as text it stays where *as_text*.

    *redact* takes secrets out of a text.
    """

    client: HttpClient
    request: HttpRequest
    redact: Callable[[str], str]
    reader: Reader | None = None
    as_text: bool = False

    async def perform(self, task: Task) -> Outcome:
        used = NO_USAGE

        async def act(_attempt: Attempt) -> Any:
            nonlocal used
            answer = await self._sent()
            if answer.status >= 300:
                raise call_error(_failure(answer))
            text = self.redact(_text(answer))
            if self.reader is not None:
                value = self.reader.text(text)
                used = _usage(value.value)
                return read_value(value)
            if self.as_text or not answer.is_json or not text:
                return text
            try:
                value = parsed(text)
            except (ValueError, RecursionError) as error:
                message = f"the answer says that it is JSON, and is not: {error}"
                raise call_error(Failure(ErrorKind.BAD_RESPONSE, message, status=answer.status)) from error
            used = _usage(value)
            return value

        call = await task.call(act)
        if used is not NO_USAGE:
            task.turn.pay(used)
        return Outcome(call.attempts, call.latency_s, call.result, call.failure, used)

    async def _sent(self) -> HttpAnswer:
        """The answer; whatever the connection does is an error of ours."""
        import aiohttp  # noqa: PLC0415 - heavy: only a run that has such a node pays for it

        try:
            return await self.client.send(self.request)
        except UsageError as error:  # of a proxy that cannot be used
            raise FinalError(Failure(ErrorKind.CONNECTION, error.message, final=True)) from None
        except PrivateAddressError as error:
            message = f"{error} is an address of this machine or of its network; `allow_private: true` allows that"
            raise FinalError(Failure(ErrorKind.HTTP, message, final=True)) from None
        except (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError) as error:
            raise FinalError(Failure(ErrorKind.CONNECTION, f"TLS failed: {error}", final=True)) from None
        except aiohttp.InvalidURL as error:
            raise FinalError(Failure(ErrorKind.HTTP, f"this is no address: {error}", final=True)) from None
        except (TimeoutError, aiohttp.ServerTimeoutError):
            raise call_error(Failure(ErrorKind.CONNECTION, "no connection within 10 s")) from None
        except (aiohttp.ClientError, OSError) as error:
            proxy = proxy_of(self.request.url)
            by = "" if proxy is None else f" ({proxy.words})"
            raise call_error(Failure(ErrorKind.CONNECTION, f"{str(error) or type(error).__name__}{by}")) from None
        except ValueError as error:
            raise FinalError(Failure(ErrorKind.HTTP, f"this cannot be sent: {error}", final=True)) from None


def _text(answer: HttpAnswer) -> str:
    try:
        return answer.body.decode(answer.charset, "replace").removeprefix("\ufeff")
    except LookupError:
        return answer.body.decode("utf-8", "replace")


def _failure(answer: HttpAnswer) -> Failure:
    """What the status of *answer* means."""
    body = " ".join(_text(answer).split())
    told = f": {body[:TOLD_BODY]}{'…' if len(body) > TOLD_BODY else ''}" if body else ""
    if answer.status in _REDIRECTS:
        told = f": it redirects to {answer.headers.get('location')}; write that address"
    kind = _BY_STATUS.get(answer.status, ErrorKind.SERVER if answer.status >= 500 else ErrorKind.HTTP)
    message = f"answered with status {answer.status}{told}"
    return Failure(kind, message, status=answer.status, retry_after_s=retry_after_s(answer.headers))


_COUNTS = {"input_tokens": ("input_tokens", "prompt_tokens"), "output_tokens": ("output_tokens", "completion_tokens")}


def _usage(value: Any) -> Usage:
    """What a remote agent says under `usage` that its answer took; nothing where it says nothing that can be read."""
    told = value.get("usage") if isinstance(value, dict) else None
    if not isinstance(told, dict):
        return NO_USAGE
    counts = {name: next((told[key] for key in keys if _is_count(told.get(key))), 0) for name, keys in _COUNTS.items()}
    cost = told.get("cost_usd", value.get("cost_usd"))
    try:
        money = None if cost is None or isinstance(cost, bool) else Decimal(str(cost))
    except InvalidOperation:
        money = None
    if money is not None and not (money.is_finite() and money >= 0):
        money = None
    return Usage(counts["input_tokens"], counts["output_tokens"], 0, money)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12
