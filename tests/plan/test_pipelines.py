"""The sample pipelines: their promised figures, and a run of each on the simulator."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import PIPELINES
from virtual import run_virtually
from wire import WireServer, plays

import agentdag
from agentdag import Options
from agentdag.plan.draw import to_json
from agentdag.plan.work import CallWork
from agentdag.session import compile_pipeline

TOTALS = [
    ("due_diligence", 5, 170, 95),
    ("content", 4, 112, 68),
    ("enrichment", 6, 231, 118),
    ("linear", 3, 89, 89),
    ("research_swarm", 14, 281, 73),
]


@pytest.mark.parametrize(("name", "nodes", "sequential", "critical"), TOTALS)
def test_the_promised_totals(name: str, nodes: int, sequential: float, critical: float) -> None:
    told = json.loads(to_json(agentdag.load(PIPELINES / f"{name}.yaml")))
    assert (len(told["nodes"]), told["sequential_s"], told["critical_path_s"]) == (nodes, sequential, critical)
    assert told["makespan_s"] == critical


def test_the_graph_is_as_the_contract_says() -> None:
    told = json.loads(to_json(agentdag.load(PIPELINES / "due_diligence.yaml")))
    assert told["pipeline"] == "due-diligence"
    assert told["waves_s"] == 100
    assert told["critical_path"] == ["parser", "financial", "summary"]
    assert told["waves"] == [["parser", "market"], ["financial", "legal"], ["summary"]]
    assert told["concurrency"] == 5
    assert told["lower_bound_s"] == 95
    assert told["advice"][0]["saves_s"] == 15
    assert told["nodes"][0] == {
        "id": "parser", "wave": 0, "needs": [], "duration_s": 30.0, "start_s": 0.0, "slack_s": 0.0, "critical": True,
    }  # fmt: skip
    assert [node["slack_s"] for node in told["nodes"]] == [0, 0, 5, 40, 0]


@pytest.mark.parametrize("file", sorted(PIPELINES.glob("*.yaml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("schedule", ["eager", "waves"])
def test_every_sample_runs_on_the_simulator(file: object, schedule: str) -> None:
    compiled = compile_pipeline(str(file))
    assert compiled.findings == ()
    assert compiled.plan is not None
    options = Options(simulate=True, time_scale=0.001, schedule=schedule)
    works = [node.work for node in compiled.plan.nodes]
    calls = any(isinstance(work, CallWork) or getattr(work, "tooling", None) for work in works)  # these take real time
    run = agentdag.arun(compiled.plan, options=options)
    result = asyncio.run(run) if calls else run_virtually(run)
    assert result.ok, [node.error for node in result.nodes.values()]
    assert all(value is not None for value in result.outputs.values())
    assert not result.output_errors


def test_the_mixed_run_computes_exact_figures() -> None:
    plan = agentdag.load(PIPELINES / "spend_review.yaml")
    result = agentdag.run(plan, options=Options(simulate=True, time_scale=0.001))
    ledger = (PIPELINES / "inputs" / "ledger.csv").read_text().splitlines()[1:]
    cents = sum(round(float(row.rsplit(",", 1)[1]) * 100) for row in ledger)
    assert result.outputs["total"] == f"{cents / 100:.2f}"
    assert result.outputs["total"] in result.outputs["report"]
    assert "simulated" in result.outputs["report"]


@pytest.mark.parametrize("name", ["map_reduce_docs", "repo_review", "research_agent"])
def test_a_sample_with_tools_and_programs_runs_for_real(
    name: str, wire: WireServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real SDKs, functions, programs and MCP server; only the models are played, over the wire."""
    wire.usual = plays
    for provider, url in (("OPENAI", wire.openai_url), ("ANTHROPIC", wire.url)):
        monkeypatch.setenv(f"{provider}_BASE_URL", url)
        monkeypatch.setenv(f"{provider}_API_KEY", "sk-canary-0123456789")
    folder = tmp_path / "pipelines"
    shutil.copytree(PIPELINES, folder)
    for arguments in (["init"], ["add", "."], ["commit", "-m", "One"], ["commit", "--allow-empty", "-m", "Two"]):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)
    result = agentdag.run(agentdag.load(folder / f"{name}.yaml"))
    assert result.ok, [node.error for node in result.nodes.values()]
    assert not result.output_errors
    assert all(value is not None for value in result.outputs.values())
    if name == "repo_review":
        assert "Two" in result.nodes["log"].output
    elif name == "map_reduce_docs":
        assert (folder / "out" / "digest.md").is_file()
        assert result.outputs["read"] == 8
    else:
        assert "note 1" in str(wire.calls[1].body["messages"])
