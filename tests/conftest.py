"""What many tests need: a wire-true server, and pipelines from text."""

from __future__ import annotations

import os
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from raw import Answer, RawServer
from strict_openai import StrictOpenAI
from wire import WireServer

from agentdag.plan.compile import Compiled, compile_text
from agentdag.plan.plan import Plan
from agentdag.providers.registry import provider_types

settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")

_STORE = tempfile.TemporaryDirectory(prefix="agentdag-tests-")
os.environ["AGENTDAG_STORE"] = _STORE.name  # no test leaves runs beside the samples
PIPELINES = Path(__file__).parent.parent / "pipelines"


@pytest.fixture
def wire() -> Iterator[WireServer]:
    server = WireServer().start()
    yield server
    server.stop()


@pytest.fixture
def strict() -> Iterator[StrictOpenAI]:
    server = StrictOpenAI()
    server.serve()
    yield server
    server.stop()


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    """Starts a server that gives the answers of a test, one after another."""
    servers: list[RawServer] = []

    def start(*answers: Answer) -> RawServer:
        servers.append(RawServer(*answers))
        servers[-1].serve()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str], Compiled]:
    """Compiles a text as `p.yaml` in a folder of its own."""

    def compile_(text: str) -> Compiled:
        return compile_text(textwrap.dedent(text), tmp_path / "p.yaml", provider_types=provider_types())

    return compile_


@pytest.fixture
def plan(compiled: Callable[[str], Compiled]) -> Callable[[str], Plan]:
    """As `compiled`, of a text that has no errors."""

    def compile_(text: str) -> Plan:
        found = compiled(text)
        assert found.plan is not None, found.findings
        return found.plan

    return compile_
