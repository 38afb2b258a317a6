"""`agentdag pool`, and what the command line says of budgets, tiers and costs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from program import FAST, agentdag, interrupt, started

from tests.wire import WireServer

PIPELINES = Path(__file__).parent.parent.parent / "pipelines"
MODEL = ["--model", "openai/gpt-5-mini"]


def answers(folder: Path) -> dict[int, str]:
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return {line["row"]: line["outputs"]["answer"] for line in lines if line["status"] == "succeeded"}


def test_prompts_in_answers_out(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "Say one"}\n"Say two"\n\n{"prompt": "Say three", "x-id": 7}\n')
    done = agentdag("pool", "in.jsonl", "-o", "out.jsonl", *MODEL, "-c", "2", *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {row: text.rpartition(": ")[2] for row, text in answers(tmp_path).items()} == {1: "Say one", 2: "Say two", 3: "Say three"}  # fmt: skip
    assert "3 of 3 rows succeeded" in done.stderr
    listed = agentdag("runs", cwd=tmp_path)
    assert "in" in listed.stdout
    assert "3 rows" in listed.stdout


def test_a_template_reads_the_fields_of_a_row(wire: WireServer, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text,lang\nhello,da\nbye,sv\n")
    template = "Into {{ inputs.lang }}: {{ inputs.text }}"
    where = ["--model", "local/m", "--base-url", wire.openai_url, "--system", "Be brief.", "--max-tokens", "50"]
    done = agentdag("pool", "in.csv", "-o", "out.jsonl", "--prompt", template, *where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(call.prompt for call in wire.calls) == ["Into da: hello", "Into sv: bye"]
    assert {call.body["messages"][0]["content"] for call in wire.calls} == {"Be brief."}
    assert {call.body["max_tokens"] for call in wire.calls} == {50}


def test_an_interrupted_pool_goes_on_without_asking_twice(wire: WireServer, tmp_path: Path) -> None:
    wire.script["m"] = ["ok", "ok", "stall"]
    (tmp_path / "in.jsonl").write_text("\n".join(f'"Say {number}"' for number in range(4)))
    where = ["--model", "local/m", "--base-url", wire.openai_url, "-c", "1"]
    run = started("pool", "in.jsonl", "-o", "out.jsonl", *where, cwd=tmp_path)
    wire.await_calls(3)
    interrupt(run)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=30)
    assert run.returncode == 130, told
    wire.script["m"] = ["ok"]
    done = agentdag("resume", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(answers(tmp_path)) == 4
    assert len(wire.calls) == 5


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["in.jsonl", "--model", "gpt-5"], "names no model"),
        (["in.jsonl", "--model", "nobody/m"], "there is no provider `nobody`"),
        (["none.jsonl", *MODEL], "cannot read none.jsonl"),
        (["in.jsonl", *MODEL, "--prompt", "{{ inputs.text }"], "AD301"),
        (["in.jsonl", *MODEL, "--prompt", "{{ inputs.text }}"], "row 1"),
        (["in.jsonl", *MODEL, "--budget", "cots=1"], "did you mean `cost`?"),
        (["in.jsonl", *MODEL, "--budget", "cost=-1"], "not an amount of USD"),
        (["in.jsonl", *MODEL, "--budget", "tokens=1.5"], "not a whole number of tokens"),
        (["in.jsonl", *MODEL, "--budget", "much"], "is not understood"),
        (["in.jsonl", "--model", "openai/gtp", "--budget", "cost=1"], "no price is known for openai/gtp"),
    ],
)
def test_what_is_wrong_is_told_before_any_call(arguments: list[str], why: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "Say one"}\n')
    done = agentdag("pool", *arguments, "--no-store", cwd=tmp_path, OPENAI_API_KEY="sk-nobodys-key")
    assert done.returncode == 2, done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_out_of_budget_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    path = str(PIPELINES / "tiered_support.yaml")
    done = agentdag("run", path, *FAST, "--budget", "cost=0.01", cwd=tmp_path)
    assert done.returncode == 3
    assert "out of budget" in done.stderr
    assert "--budget ..." in done.stderr
    raised = agentdag("resume", "last", "--budget", "cost=1", cwd=tmp_path)
    assert raised.returncode == 0, raised.stderr
    assert "which ran out of budget" in raised.stderr
    assert "% saved" in raised.stderr
    shown = agentdag("show", "last", cwd=tmp_path).stdout
    assert "with everything on the top tier" in shown
    assert "left" in shown


def test_the_support_desk_shows_it_all_in_one_run(tmp_path: Path) -> None:
    done = agentdag("run", str(PIPELINES / "tiered_support.yaml"), *FAST, "--format", "json", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    settled = {event["node"]: event for event in events if event["type"] == "node.settled"}
    assert done.returncode == 0, done.stderr
    assert settled["triage"]["model"] == "openai/gpt-5-nano"
    assert settled["billing"]["model"] == "openai/gpt-5-mini"
    assert settled["review"]["model"] == "anthropic/claude-opus-4-5"
    assert settled["final"]["degraded"] == ["downgrade", "shrink"]
    assert settled["lessons"]["reason"] == "budget"
    assert sum("cache" in event["waits"] for event in settled.values()) == 3
    finished = events[-1]
    assert float(finished["top_tier_usd"]) > 2.5 * float(finished["usage"]["cost_usd"])
    assert float(finished["budget_left"]["cost_usd"]) > 0
    assert [event["actions"] for event in events if event["type"] == "budget.low"] == [["downgrade", "shed", "shrink"]]


def test_every_tier_can_be_exchanged_for_one_that_costs_nothing(tmp_path: Path) -> None:
    path = str(PIPELINES / "tiered_support.yaml")
    done = agentdag("run", path, *FAST, "--tier", "*=simulated/fast", "--quiet", "-o", "out.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["answers"].startswith("[fast, simulated]")


def test_validate_tells_what_runs_cost() -> None:
    done = agentdag("validate", str(PIPELINES / "tiered_support.yaml"), "--format", "json")
    (cost,) = json.loads(done.stdout)["costs"]
    assert 0 < float(cost["expected_usd"]) < float(cost["worst_usd"])
    assert cost["nodes"][0]["id"] == "triage"


def test_a_dry_run_says_whether_the_budget_does() -> None:
    path = str(PIPELINES / "tiered_support.yaml")
    for budget, told in (("10", "always enough"), ("0.1", "not for the most"), ("0.001", "exit code 3")):
        assert told in agentdag("run", path, "--dry-run", "--budget", f"cost={budget}").stdout
