"""Answers to files and from files: one exchange a file, which people read, compare and correct.

A recording is found again by what was asked (model, prompts, parameters) and, where a node asked the same several
times, by which time it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from decimal import InvalidOperation
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml

from agentdag.calls import Exchange, OnDelta, Provider, Reply, Request, ToolCall, Usage
from agentdag.errors import CallError, ErrorKind, Failure, FinalError, UsageError, call_error
from agentdag.providers.finish import Finish, meaning_of
from agentdag.written import written

_SUFFIX = ".yaml"
_DIGITS = 12
"""Of the digest in a file's name."""


class RecordingProvider:
    """Asks *inner*, and writes each exchange to *folder*; *clean* takes secrets out of a JSON text."""

    def __init__(self, inner: Provider, folder: Path, clean: Callable[[str], str]) -> None:
        self._inner = inner
        self._folder = folder
        self._clean = clean
        self._times: Counter[tuple[str, str]] = Counter()
        self.free = getattr(inner, "free", False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--record {folder} cannot be written: {error.strerror}") from error

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply:
        """The answer of the provider itself; raises what it raises."""
        begun = time.monotonic()
        asked = _asked(request)
        key = _key(asked)
        try:
            reply = await self._inner.complete(request, on_delta)
        except CallError as error:
            self._write(request.node, key, asked, {"failure": _told(error.failure)}, begun)
            raise
        self._write(request.node, key, asked, {"reply": _plain(reply)}, begun)
        return reply

    def _write(self, node: str, key: str, asked: Mapping[str, Any], came: Mapping[str, Any], begun: float) -> None:
        """The exchange is numbered when it is over: one that was cut off leaves no gap."""
        self._times[node, key] += 1
        number = self._times[node, key]
        about = {"node": node, "latency_s": round(time.monotonic() - begun, 3)}
        whole = {"recorded": about, "request": asked, **came}
        text = written(json.loads(self._clean(json.dumps(whole))))
        path = self._folder / _file_name(node, key, number)
        beside = path.with_suffix(".part")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Recordings:
    """The exchanges in *folder*, for all providers of a run. Raises UsageError where there is no such folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"--replay {folder}: there is no such folder", hint="make it with --record DIR")
        self.folder = folder
        self._files = {name for name in os.listdir(folder) if name.endswith(_SUFFIX)}  # noqa: PTH208 - names are enough
        self._nodes: dict[str, list[str]] = {}
        for name in sorted(self._files):
            node, _, rest = name.removesuffix(_SUFFIX).rpartition("-")[0].rpartition(".")
            self._nodes.setdefault(rest, []).append(node)
        self._times: Counter[tuple[str, str]] = Counter()
        self._asked_for: set[str] = set()

    def unused(self) -> list[str]:
        """The files that nothing has asked for."""
        return sorted(self._files - self._asked_for)

    def take(self, node: str, key: str) -> Mapping[str, Any] | None:
        """The next exchange of *node* for *key*, or the last there is; of another node where this one has none."""
        self._times[node, key] += 1
        for name in (node, *self._nodes.get(key, ())):
            for number in range(self._times[node, key], 0, -1):
                file = _file_name(name, key, number)
                if file in self._files:
                    self._asked_for.add(file)
                    return self._read(file)
        return None

    def complaint(self, node: str, asked: Mapping[str, Any]) -> str:
        """Why *node*, which asks *asked*, gets no answer."""
        again = f"record it anew with --record {self.folder}"
        for file in sorted(self._files):
            if file.startswith(f"{node}."):
                said = self._read(file).get("request")
                said = said if isinstance(said, dict) else {}
                other = [part for part in {**said, **asked} if said.get(part) != asked.get(part)]
                if not other:
                    continue
                return f"it was recorded with another {' and '.join(other)}, in {self.folder / file}: {again}"
        return f"no such exchange of `{node}` was recorded in {self.folder}: {again}"

    def _read(self, file: str) -> Mapping[str, Any]:
        try:
            found = _loaded((self.folder / file).read_bytes())
        except (OSError, yaml.YAMLError, ValueError) as error:
            raise FinalError(_lost(f"{self.folder / file} cannot be read: {error}")) from error
        if not isinstance(found, dict):
            raise FinalError(_lost(f"{self.folder / file} holds no exchange"))
        return found


class ReplayProvider:
    """Answers as it was recorded; *pace* times the recorded latencies are waited."""

    free = True

    def __init__(self, recordings: Recordings, pace: float) -> None:
        self._recordings = recordings
        self._pace = pace

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply:
        """What was recorded for *request*; raises CallError where that was a failure, or where there is nothing."""
        asked = _asked(request)
        key = _key(asked)
        found = self._recordings.take(request.node, key)
        if found is None:
            raise FinalError(_lost(self._recordings.complaint(request.node, asked)))
        if self._pace:
            await asyncio.sleep(_latency_s(found) * self._pace)
        try:
            if "failure" in found:
                raise call_error(Failure.of(found["failure"]))
            reply = _reply_from(found["reply"])
        except (KeyError, TypeError, ValueError, InvalidOperation, AttributeError) as error:
            file = _file_name(request.node, key, 1)
            raise FinalError(_lost(f"{self._recordings.folder / file} holds no exchange: {error!r}")) from error
        if request.stream:
            on_delta(reply.text)
        return reply

    async def aclose(self) -> None:
        """Nothing to close."""


def _asked(request: Request) -> dict[str, Any]:
    """What makes a request another one."""
    said = request.sampling.said()
    parameters = {"parameters": json.loads(json.dumps(said))} if said else {}
    system = {"system": request.system} if request.system is not None else {}
    asked: dict[str, Any] = {
        "model": f"{request.provider}/{request.model}",
        **parameters,
        **system,
        "prompt": request.prompt,
    }
    if request.form is not None:
        asked["output"] = request.form.schema or "json"
    if request.tools:
        asked["tools"] = [tool.name for tool in request.tools]
    if request.history:
        asked["history"] = [_plain_exchange(exchange) for exchange in request.history]
    return asked


def _key(asked: Mapping[str, Any]) -> str:
    text = json.dumps(asked, sort_keys=True)
    return blake2b(text.encode("ascii"), digest_size=16).hexdigest()[:_DIGITS]


def _file_name(node: str, key: str, number: int) -> str:
    return f"{node}.{key}-{number}{_SUFFIX}"


def _latency_s(found: Mapping[str, Any]) -> float:
    about = found.get("recorded")
    latency_s = about.get("latency_s") if isinstance(about, dict) else None
    return latency_s if isinstance(latency_s, (int, float)) else 0.0


def _plain(reply: Reply) -> dict[str, Any]:
    told: dict[str, Any] = {"text": reply.text, "usage": reply.usage.plain(), "finish_reason": reply.finish_reason}
    if reply.truncated:
        told["truncated"] = True
    if reply.reasoning is not None:
        told["reasoning"] = reply.reasoning
    if reply.service_tier is not None:
        told["service_tier"] = reply.service_tier
    if reply.calls:
        told["calls"] = [asdict(call) for call in reply.calls]
    if reply.calls and reply.raw is not None:
        told["raw"] = reply.raw
    return told


def _plain_exchange(exchange: Exchange) -> dict[str, Any]:
    """What was said on both sides; ids are each call's own, and count for nothing."""
    calls = [{"tool": call.name, "arguments": call.arguments} for call in exchange.calls]
    results = [result.text for result in exchange.results]
    said = {"said": exchange.text, "calls": calls, "results": results, "told": exchange.told}
    return {name: value for name, value in said.items() if value}


def _reply_from(plain: Mapping[str, Any]) -> Reply:
    calls = tuple(ToolCall(**call) for call in plain.get("calls", ()))
    usage = Usage.of(plain["usage"])
    finish = plain["finish_reason"]
    return Reply(
        str(plain["text"]),
        usage,
        finish,
        calls=calls,
        raw=plain.get("raw"),
        truncated=plain.get("truncated", meaning_of(str(finish), {}) is Finish.CUT),
        reasoning=plain.get("reasoning"),
        service_tier=plain.get("service_tier"),
    )


def _told(failure: Failure) -> dict[str, Any]:
    return {name: said for name, said in failure.plain().items() if said is not False and name != "request_id"}


def _lost(message: str) -> Failure:
    return Failure(ErrorKind.UPSTREAM, message, final=True)


def _loaded(data: bytes) -> Any:
    """The plain value in *data*; the quick loader refuses lone surrogates, which the other one reads."""
    try:
        return yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except yaml.YAMLError:
        return yaml.safe_load(data)
