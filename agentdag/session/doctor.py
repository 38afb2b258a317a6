"""What a pipeline needs to run, looked at before it does: keys, servers, models, prices, tools, the store, versions.

Nothing is paid for, but where *call* says so: then each model is asked once, in a few tokens.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, closing
from dataclasses import replace
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from agentdag._version import __version__
from agentdag.calls import Provider, Request, Sampling
from agentdag.errors import CallError, ErrorKind, MendableError, UsageError
from agentdag.language.findings import did_you_mean
from agentdag.language.spec import ProviderSpec
from agentdag.plan.plan import Plan
from agentdag.plan.work import ModelRef, PromptWork
from agentdag.providers import registry
from agentdag.providers.addresses import MISSING, likely_address
from agentdag.providers.http import SharedHttp
from agentdag.providers.prices import Prices
from agentdag.providers.proxies import proxy_of
from agentdag.providers.settings import Secrets
from agentdag.providers.wire import WireProvider
from agentdag.session.money import PriceList
from agentdag.session.options import Options
from agentdag.session.providers import Surroundings, settings_of
from agentdag.session.stage import Stage, filled
from agentdag.session.tools import Tools
from agentdag.store.history import History
from agentdag.store.schema import FILE
from agentdag.views.words import count, money, names, seconds

PACKAGES = ("openai", "anthropic", "mcp", "pydantic", "aiohttp", "genai-prices")
USUAL = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
"""Providers that are looked at where no pipeline is named, and the variables that hold their keys."""
WAITS_S = 15.0
"""How long a server may take to answer."""
CALL_TOKENS = 16
"""How long the answer of a call may be: the fewest that every API accepts."""
_PROMPT = "Answer with the one word: ok"


class State(StrEnum):
    """How something was found."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    WRONG = "wrong"


class Check(NamedTuple):
    """One thing that was looked at: what it is of, what was found, and the mend."""

    area: str
    state: State
    found: str
    hint: str | None = None


async def examine(
    plan: Plan | None, *, store: Path, call: bool = False, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[Check, None]:
    """Everything that a run of *plan* needs, each as soon as it is known; or without one what any run does."""
    environment = os.environ if environment is None else environment
    yield _versions()
    yield _store(store)
    if plan is None:
        specs = {name: ProviderSpec() for name, key in USUAL.items() if environment.get(key)}
        for name, key in USUAL.items():
            if name not in specs:
                yield Check("key", State.NOTE, f"{key} is not set: `{name}` cannot be asked", f"export {key}=...")
        models: list[ModelRef] = []
    else:
        yield _pipeline(plan, environment)
        models = _models(plan)
        specs = {
            name: plan.providers.get(name) or ProviderSpec() for name in sorted({each.provider for each in models})
        }
    async with aclosing(_providers(specs, models, environment, plan, call=call)) as checks:
        async for check in checks:
            yield check
    if plan is not None:
        async with aclosing(_tools(plan, environment)) as checks:
            async for check in checks:
                yield check


def _versions() -> Check:
    found = [f"agentdag {__version__}", f"Python {sys.version.split()[0]}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return Check("versions", State.OK, ", ".join(found))


def _store(folder: Path) -> Check:
    """Whether runs can be recorded in *folder*, which is not made here."""
    try:
        if (folder / FILE).is_file():
            with closing(History(folder)):
                pass
        there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
        with tempfile.TemporaryFile(dir=there):
            pass
    except (MendableError, OSError) as error:
        what = error.message if isinstance(error, MendableError) else f"{folder} cannot be written: {error.strerror}"
        hint = error.hint if isinstance(error, MendableError) else "use --store DIR, or --no-store"
        return Check("store", State.WRONG, what, hint)
    return Check("store", State.OK, f"{folder} can be written")


def _pipeline(plan: Plan, environment: Mapping[str, str]) -> Check:
    """Functions, programs, schemas and variables that the file names."""
    try:
        Stage(plan, Options(), environment=environment)
    except UsageError as error:
        return Check("pipeline", State.WRONG, error.message, error.hint)
    return Check(
        "pipeline", State.OK, f"{plan.path}: {count(len(plan.nodes), 'node')}, functions and programs are there"
    )


def _models(plan: Plan) -> list[ModelRef]:
    """Every model that a node may ask, each once."""
    found = (model for _, within, node in plan.walk() for model in within.models_of(node, degrades=plan.degrades))
    return sorted(dict.fromkeys(found))


async def _providers(
    specs: Mapping[str, ProviderSpec],
    models: list[ModelRef],
    environment: Mapping[str, str],
    plan: Plan | None,
    *,
    call: bool,
) -> AsyncGenerator[Check, None]:
    around = Surroundings(SharedHttp(len(specs) + 1), Secrets(), environment)
    prices = PriceList({} if plan is None else plan.providers)
    looks: list[asyncio.Future[list[Check]]] = []
    try:
        looks += [
            asyncio.ensure_future(
                _provider(
                    name, spec, [each for each in models if each.provider == name], around, plan, prices, call=call
                )
            )
            for name, spec in specs.items()
        ]
        for look in looks:
            for check in await look:
                yield _clean(check, around.secrets)
    finally:
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        await around.http.aclose()


def _clean(check: Check, secrets: Secrets) -> Check:
    """*check* without what the environment holds."""
    hint = None if check.hint is None else secrets.redact(check.hint)
    return check._replace(found=secrets.redact(check.found), hint=hint)


async def _provider(  # noqa: PLR0913 - what one provider is looked at with
    name: str,
    spec: ProviderSpec,
    models: list[ModelRef],
    around: Surroundings,
    plan: Plan | None,
    prices: PriceList,
    *,
    call: bool,
) -> list[Check]:
    """Its key, its server and its models."""
    kind = spec.type or name
    if kind == registry.SIMULATED:
        return [Check("server", State.OK, f"{name}: simulated, nobody is asked")]
    try:
        provider = registry.create(settings_of(name, spec, around))
    except UsageError as error:
        return [Check("provider", State.WRONG, error.message, error.hint)]
    checks = [Check("key", State.OK, f"{name}: {_key(kind, spec)}")]
    listed: list[str] | None = None
    try:
        if isinstance(provider, WireProvider):
            check, listed = await _server(name, kind, provider)
            checks.append(check)
            call = call and check.state is not State.WRONG
        for model in models:
            checks.append(_model(model, kind, spec, listed, priced=prices(model) is not None))
            if call:
                checks.append(await _called(model, provider, plan, prices(model)))
    finally:
        await provider.aclose()
    return checks


def _key(kind: str, spec: ProviderSpec) -> str:
    if spec.api_key is not None:
        return "a key is set in the file" if "${" not in spec.api_key else f"a key is read from {spec.api_key}"
    if spec.base_url is not None and kind in USUAL:
        return "no key, for a server of your own"
    return f"{USUAL[kind]} is set" if kind in USUAL else "credentials are there"


async def _server(name: str, kind: str, provider: WireProvider) -> tuple[Check, list[str] | None]:
    """Whether the server answers, and which models it lists, if it does."""
    url = provider.base_url
    proxy = proxy_of(url)
    by = "" if proxy is None else f" {proxy.words}"
    begun = time.monotonic()
    try:
        listed = await provider.models(WAITS_S)
    except CallError as error:
        failure = error.failure
        if failure.kind in {ErrorKind.AUTH, ErrorKind.QUOTA}:
            return Check("server", State.WRONG, f"{name}: {url}{by}: {failure.message}", "check the key"), None
        if failure.kind is ErrorKind.CONNECTION or failure.kind is ErrorKind.TIMEOUT:
            told = f"{name}: {url}{by} cannot be reached: {failure.message}"
            mend = "start it, or correct `base_url`"
            if proxy is not None:
                mend = f"correct {proxy.variable}, or exempt the server: NO_PROXY={urlsplit(url).hostname}"
            return Check("server", State.WRONG, told, mend), None
        better = likely_address(kind, url) if failure.status in MISSING else None
        if better is not None:
            told = f"{name}: {url}{by} answers with status {failure.status}"
            return Check("server", State.WARNING, told, f"try `base_url: {better}`"), None
        return Check("server", State.OK, f"{name}: {url} answers{by}, but lists no models"), None
    took = seconds(time.monotonic() - begun)
    many = "" if listed is None else f", and lists {count(len(listed), 'model')}"
    return Check("server", State.OK, f"{name}: {url} answers in {took}{by}{many}"), listed


def _model(model: ModelRef, kind: str, spec: ProviderSpec, listed: list[str] | None, *, priced: bool) -> Check:
    there = listed is None or not listed or any(_is_same(model.name, each) for each in listed)
    if not there and listed is not None:
        hint = did_you_mean(model.name, listed) or f"it lists {names(sorted(listed))}"
        state = State.WRONG if spec.base_url is None else State.WARNING
        return Check("model", state, f"{model}: the server does not list it", hint)
    if not priced:
        hint = f"say `providers: {{{model.provider}: {{prices: {{input: ..., output: ...}}}}}}`, if its cost matters"
        state = State.WARNING if spec.base_url is None and kind in USUAL else State.NOTE
        return Check("model", state, f"{model}: no price is known", hint)
    return Check("model", State.OK, f"{model}: {'listed, ' if listed else ''}price known")


def _is_same(name: str, listed: str) -> bool:
    """Whether a server lists *name* as *listed*: with a tag, or with the folder that it is in."""
    return listed in {name, f"{name}:latest", f"models/{name}"}


async def _called(model: ModelRef, provider: Provider, plan: Plan | None, prices: Prices | None) -> Check:
    """What comes of one small call, with the parameters of the first node that asks *model*."""
    sampling = replace(_sampling(plan, model), max_tokens=CALL_TOKENS, stop=(), thinking=None)
    begun = time.monotonic()
    request = Request(
        "doctor", 1, model.name, _PROMPT, sampling=sampling, stream=True, timeout_s=WAITS_S, provider=model.provider
    )
    try:
        async with asyncio.timeout(WAITS_S):
            reply = await provider.complete(request, lambda _: None)
    except TimeoutError:
        return Check("call", State.WRONG, f"{model}: no answer within {WAITS_S:g} s")
    except CallError as error:
        failure = error.failure
        return Check("call", State.WRONG, f"{model}: {failure.kind}: {failure.message}")
    took, usage = seconds(time.monotonic() - begun), reply.usage
    cost = usage.cost_usd if prices is None else prices.of(usage, reply.service_tier)
    notices = "; ".join(notice.message for notice in reply.notices)
    hints = "; ".join(notice.hint for notice in reply.notices if notice.hint)
    tokens = f"{count(reply.usage.input_tokens or 0, 'token')} in, {reply.usage.output_tokens or 0} out"
    paid = "" if cost is None else f", {money(cost)}"
    state = State.WARNING if notices else State.OK
    return Check(
        "call", state, f"{model}: answered in {took}, {tokens}{paid}{f'; {notices}' if notices else ''}", hints or None
    )


def _sampling(plan: Plan | None, model: ModelRef) -> Sampling:
    """The parameters with which a node asks *model*."""
    works = _works(plan) if plan is not None else ()
    return next((work.sampling for work in works if work.model == model), Sampling())


def _works(plan: Plan) -> Iterable[PromptWork]:
    return (choice.work for _, _, node in plan.walk() for choice in node.choices if isinstance(choice.work, PromptWork))


async def _tools(plan: Plan, environment: Mapping[str, str]) -> AsyncGenerator[Check, None]:
    """Every MCP server of *plan*, started and asked for its tools."""
    secrets = Secrets()
    try:
        tools = Tools(plan, simulate=False, fill=lambda text: filled(text, environment, secrets), redact=secrets.redact)
    except UsageError as error:
        yield Check("tools", State.WRONG, error.message, error.hint)
        return
    tools.start()
    try:
        for name, server in tools.servers():
            begun = time.monotonic()
            try:
                found = await server.tools()
            except CallError as error:
                yield Check("tools", State.WRONG, secrets.redact(error.failure.message))
            else:
                took = seconds(time.monotonic() - begun)
                yield Check("tools", State.OK, f"{name}: {count(len(found), 'tool')} within {took}")
    finally:
        await tools.aclose()
