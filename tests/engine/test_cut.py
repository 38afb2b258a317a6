"""Answers that were cut: at the file's own limit a success that says so; at a budget's no answer at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from program import agentdag as program
from raw import Raw, RawServer, completion

import agentdag
from agentdag import ErrorKind, RunResult, Status
from agentdag.events import RunStatus

FULL = "word " * 600


def says(body: Any) -> Raw:
    """As many tokens as the request allows, of 600."""
    most = body.get("max_tokens") or 10_000
    made = min(600, most)
    usage = {"prompt_tokens": 10, "completion_tokens": made}
    return completion({"content": "word " * made}, "stop" if made == 600 else "length", usage=usage)


@pytest.fixture
def server() -> Iterator[RawServer]:
    one = RawServer(says)
    one.serve()
    yield one
    one.stop()


def write(tmp_path: Path, server: RawServer, node: str = "", top: str = "") -> Path:
    file = tmp_path / "p.yaml"
    prices = "prices: {input: 1, output: 2}"
    file.write_text(
        f'providers: {{p: {{type: openai, base_url: "{server.url}/v1", {prices}}}}}\n'
        f"nodes:\n"
        f"  write: {{model: p/m, prompt: Write a page., retry: 2, {node}}}\n"
        f'  read: {{model: p/m, prompt: "Sum up {{{{ nodes.write.output }}}}", max_tokens: 100}}\n'
        f"{top}\n"
    )
    return file


def run(file: Path, **said: Any) -> RunResult:
    return agentdag.run(agentdag.load(file), **said)


def test_what_the_runs_budget_has_cut_is_no_answer_and_a_resume_with_more_asks_again(
    tmp_path: Path, server: RawServer
) -> None:
    write(tmp_path, server)
    done = program("run", "p.yaml", "--budget", "cost=0.0005", "--store", "s", "--format", "json", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 3, done.stderr
    settled = {event["node"]: event for event in events if event["type"] == "node.settled"}
    write_ = settled["write"]
    assert (write_["status"], write_["error"]["kind"], write_["truncated"]) == ("failed", "budget", True)
    assert write_["partial"].startswith("word word")
    assert "output" not in write_
    assert settled["read"]["status"] == "skipped"
    assert len(server.asked) == 1
    shown = program("show", events[0]["run"], "write", "--store", "s", cwd=tmp_path).stdout
    assert "the part of an answer that had come when it was cut" in shown
    again = program(
        "resume", events[0]["run"], "--budget", "cost=0.1", "--store", "s", "--format", "json", cwd=tmp_path
    )
    assert again.returncode == 0, again.stderr
    settled = {e["node"]: e for e in map(json.loads, again.stdout.splitlines()) if e["type"] == "node.settled"}
    assert settled["write"]["output"] == FULL
    assert FULL.strip() in server.asked[-1].body["messages"][0]["content"]


def test_a_limit_of_the_files_own_is_its_own_affair(tmp_path: Path, server: RawServer) -> None:
    write(tmp_path, server, "max_tokens: 240")
    done = program("run", "p.yaml", "--budget", "cost=0.1", "--no-store", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cut +2 answers cut at their token limits: write, read", done.stderr), done.stderr
    assert "max_tokens" in done.stderr


def test_params_of_the_file_are_a_limit_of_its_own(tmp_path: Path, server: RawServer) -> None:
    result = run(write(tmp_path, server, "params: {max_tokens: 240}", "budget: {cost: 0.1}"))
    assert result.nodes["write"].status is Status.SUCCEEDED
    assert result.nodes["write"].truncated


def test_shrinking_is_consent(tmp_path: Path, server: RawServer) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        f'providers: {{p: {{type: openai, base_url: "{server.url}/v1", prices: {{input: 1, output: 2}}}}}}\n'
        "limits: {concurrency: 1}\n"
        "budget: {tokens: 1500, when_low: {at: 10%, do: [shrink]}}\n"
        "nodes:\n"
        "  first: {model: p/m, prompt: a, max_tokens: 600}\n"
        "  second: {model: p/m, prompt: b, needs: [first], retry: 0, max_tokens: 700}\n"
    )
    node = run(file).nodes["second"]
    assert (node.status, node.degraded, node.truncated) == (Status.SUCCEEDED, ("shrink",), True)


def test_a_nodes_own_budget_fails_the_node_and_not_the_purse_of_the_run(tmp_path: Path, server: RawServer) -> None:
    result = run(write(tmp_path, server, "budget: {tokens: 300}", "budget: {cost: 1}"))
    error = result.nodes["write"].error
    assert error is not None
    assert error.kind is ErrorKind.BUDGET
    assert "the budget of write" in error.message
    assert (result.status, result.exit_code) == (RunStatus.FAILED, 1)


def test_the_default_limit_of_a_budget_grows_over_a_resume(tmp_path: Path) -> None:
    def endless(body: Any) -> Raw:
        most = body.get("max_tokens") or 10**6
        usage = {"prompt_tokens": 10, "completion_tokens": min(9000, most)}
        return completion({"content": "w"}, "stop" if most >= 9000 else "length", usage=usage)

    server = RawServer(endless)
    server.serve()
    try:
        write(tmp_path, server)
        first = program("run", "p.yaml", "--budget", "cost=1", "--store", "s", "--format", "json", cwd=tmp_path)
        assert first.returncode == 3, first.stderr
        assert server.asked[0].body["max_tokens"] == 4096
        run_ = json.loads(first.stdout.splitlines()[0])["run"]
        again = program("resume", run_, "--budget", "cost=2", "--store", "s", "--format", "json", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
    finally:
        server.stop()


@pytest.mark.parametrize("message", [{"content": "<think>hm"}, {"content": "", "reasoning_content": "hm"}])
def test_a_budget_that_cuts_a_model_in_mid_thought_is_spent(tmp_path: Path, message: dict[str, str]) -> None:
    def thinks(body: Any) -> Raw:
        return completion(message, "length", usage={"prompt_tokens": 10, "completion_tokens": body["max_tokens"]})

    server = RawServer(thinks)
    server.serve()
    try:
        result = run(write(tmp_path, server, "", "budget: {tokens: 6000}"))
    finally:
        server.stop()
    error = result.nodes["write"].error
    assert error is not None
    assert (error.kind, result.exit_code) == (ErrorKind.BUDGET, 3)


def test_what_the_server_has_cut_long_before_is_not_the_budgets_doing(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 50}
    server = RawServer(completion({"content": "half a"}, "length", usage=usage))
    server.serve()
    try:
        node = run(write(tmp_path, server, "", "budget: {cost: 100}")).nodes["write"]
    finally:
        server.stop()
    assert (node.status, node.output, node.truncated) == (Status.SUCCEEDED, "half a", True)


def test_a_budget_that_could_pay_for_more_is_not_called_too_small(tmp_path: Path) -> None:
    def endless(body: Any) -> Raw:
        return completion(
            {"content": "w"}, "length", usage={"prompt_tokens": 9, "completion_tokens": body["max_tokens"]}
        )

    server = RawServer(endless)
    server.serve()
    try:
        error = run(write(tmp_path, server, "", "budget: {cost: 100}")).nodes["write"].error
    finally:
        server.stop()
    assert error is not None
    assert "Resume to allow 4 times as many" in error.message


def test_json_that_a_server_has_cut_without_a_word_is_asked_for_once(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    server = RawServer(completion({"content": '{"score": 1, "wh'}, "stop", usage=usage))
    server.serve()
    try:
        node = "max_tokens: 20, output: {fields: {score: integer, why: string}}"
        error = run(write(tmp_path, server, node)).nodes["write"].error
    finally:
        server.stop()
    assert error is not None
    assert (error.kind, len(server.asked)) == (ErrorKind.INVALID_OUTPUT, 1)
    assert "`max_tokens: 20`" in error.message
