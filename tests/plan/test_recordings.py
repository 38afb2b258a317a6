"""The sample pipelines run from recordings, which were made with the wire-true servers through the real SDKs.

`AGENTDAG_RECORDINGS=write` makes them anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conftest import PIPELINES
from wire import ANSWER, WireServer

import agentdag
from agentdag import NodeStarted, Options
from agentdag.session import Session, run_loop

RECORDINGS = Path(__file__).parent.parent / "recordings"
ACTING = {"map_reduce_docs", "repo_review", "research_agent"}
"""Those that run functions on files, programs and tools: `test_pipelines.py` runs them for real."""
SAMPLES = [file for file in sorted(PIPELINES.glob("*.yaml")) if file.stem not in ACTING]


def recorded(file: Path, wire: WireServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RECORDINGS / file.stem
    shutil.rmtree(folder, ignore_errors=True)
    for name, url in (("OPENAI", wire.openai_url), ("ANTHROPIC", wire.url)):
        monkeypatch.setenv(f"{name}_BASE_URL", url)
        monkeypatch.setenv(f"{name}_API_KEY", "sk-canary-0123456789")
    assert agentdag.run(agentdag.load(file), options=Options(record=folder, concurrency=1)).ok


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_a_sample_runs_from_its_recordings(file: Path, wire: WireServer, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.environ.get("AGENTDAG_RECORDINGS") == "write":
        recorded(file, wire, monkeypatch)
        monkeypatch.undo()
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    asked: list[str] = []

    def watch(event: object) -> None:
        if isinstance(event, NodeStarted) and event.model is not None:
            asked.append(event.node)

    replay = Options(replay=RECORDINGS / file.stem, concurrency=1)
    session = Session(agentdag.load(file), options=replay, observers=(watch,))
    result = run_loop(session.run())
    assert result.ok, [node.error for node in result.nodes.values()]
    assert session.stage.unused_recordings == []
    assert asked
    assert not result.output_errors
    assert any(node.output == ANSWER for node in result.nodes.values())
    assert result.usage.input_tokens == 40 * len(asked)


def test_no_recording_holds_a_key() -> None:
    files = list(RECORDINGS.rglob("*.yaml"))
    assert len(files) > len(SAMPLES)
    assert not any("sk-canary" in file.read_text() for file in files)
