"""`validate`, `graph` and `run --dry-run` as CI and people use them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from conftest import PIPELINES
from program import agentdag

WARNED = "inputs: {unused: {default: x}}\nnodes: {a: {prompt: hi, model: openai/gpt-5-mini}}\n"
BROKEN = "nodes: {a: {promt: hi, model: openai/gpt-5-mini}}\n"
GOOD = "nodes: {a: {prompt: hi, model: openai/gpt-5-mini}}\n"

FOUR = """\
limits: {concurrency: 4}
defaults: {model: openai/gpt-5-mini}
nodes:
  parser: {prompt: Extract the figures., expect: {latency: 30s}}
  financial: {prompt: "Assess: {{ nodes.parser.output }}", expect: {latency: 45s}}
  legal:
    needs: [parser, financial]
    prompt: "Assess: {{ nodes.parser.output }}"
    continue_on_failure: true
    expect: {latency: 40s}
  memo:
    prompt: |
      Write a memo.
      {{ nodes.financial.output }}
      {{ nodes.legal.output }}
    expect: {latency: 20s}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "broken.yaml").write_text(BROKEN)
    (tmp_path / "warned.yml").write_text(WARNED)
    (tmp_path / "compose.yaml").write_text("name: x\nservices: {db: {image: postgres}}\n")
    (tmp_path / "values.yaml").write_text("replicas: 3\nname: chart\n")
    (tmp_path / "chart.yaml").write_text("kind: ConfigMap\n{{- if .Values.on }}\n")
    (tmp_path / ".github").mkdir()
    (tmp_path / ".github" / "ci.yaml").write_text("nodes: not ours")
    (tmp_path / "venv" / "lib").mkdir(parents=True)
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "venv" / "lib" / "x.yaml").write_text("nodes: not ours")
    return tmp_path


def test_a_folder_is_searched_for_pipelines_only(folder: Path) -> None:
    done = agentdag("validate", ".", cwd=folder)
    assert done.returncode == 2
    assert "3 files checked: 1 error, 1 warning (3 other YAML files left out: no pipeline)" in done.stderr
    assert set(re.findall(r"^([\w./]+):\d", done.stdout, re.MULTILINE)) == {"broken.yaml", "warned.yml"}


def test_a_file_that_is_named_is_checked_whatever_it_looks_like(folder: Path) -> None:
    assert "AD203" in agentdag("validate", "values.yaml", cwd=folder).stdout


@pytest.mark.parametrize(
    "text",
    ["node: {a: {prompt: hi}}", "steps: [{prompt: hi}]", "{nodes: {a: {prompt: hi}}}", "Nodes:\n  a: {call: x}\n", "nodes:\n  a: {promt: hi}\n"],
)  # fmt: skip
def test_a_broken_pipeline_in_a_folder_is_not_taken_for_something_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    assert agentdag("validate", ".", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("file", "strict", "code"),
    [("good.yaml", True, 0), ("warned.yml", False, 0), ("warned.yml", True, 2), ("broken.yaml", False, 2), ("none.yaml", False, 2)],
)  # fmt: skip
def test_the_exit_code_is_what_ci_needs(folder: Path, file: str, strict: bool, code: int) -> None:
    assert agentdag("validate", file, *["--strict"] * strict, cwd=folder).returncode == code


def test_a_folder_without_a_pipeline_is_an_error(tmp_path: Path) -> None:
    done = agentdag("validate", ".", cwd=tmp_path)
    assert done.returncode == 2
    assert "AD101" in done.stdout
    assert json.loads(agentdag("validate", ".", "--format", "json", cwd=tmp_path).stdout)["errors"] == 1


def test_every_format_says_the_same(folder: Path) -> None:
    def told(name: str) -> str:
        done = agentdag("validate", ".", "--format", name, cwd=folder)
        assert (done.returncode, done.stderr) == (2, "")
        return done.stdout

    assert {(f["code"], f["file"], f["line"]) for f in json.loads(told("json"))["findings"]} == {
        ("AD201", "broken.yaml", 1),
        ("AD604", "warned.yml", 1),
    }
    assert [line.split(" ")[0] for line in told("github").splitlines()] == ["::error", "::warning"]
    results = json.loads(told("sarif"))["runs"][0]["results"]
    assert [result["ruleId"] for result in results] == ["AD201", "AD604"]
    assert ET.fromstring(told("junit")).get("failures") == "1"


def test_the_mistakes_that_a_team_wants_annotated_come_out_on_their_lines(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(FOUR)
    (tmp_path / "typo.yaml").write_text(FOUR.replace("prompt: Extract", "promt: Extract"))
    (tmp_path / "cycle.yaml").write_text(
        FOUR.replace("{prompt: Extract the figures.", '{prompt: "{{ nodes.memo.output }}"')
    )
    told = agentdag("validate", ".", "--format", "github", cwd=tmp_path).stdout
    found = set(re.findall(r"^::(\w+) file=([\w.]+),line=(\d+),.*title=agentdag (AD\d+)", told, re.MULTILINE))
    assert found == {
        ("error", "typo.yaml", "4", "AD201"),
        ("error", "cycle.yaml", "4", "AD403"),
        ("warning", "p.yaml", "7", "AD501"),
        ("warning", "p.yaml", "15", "AD601"),
    }


def test_the_pipeline_as_resolved_goes_to_stdout_and_what_is_found_to_stderr(folder: Path) -> None:
    done = agentdag("validate", "--print", "warned.yml", cwd=folder)
    assert done.returncode == 0
    assert "timeout: 10m" in done.stdout
    assert "AD604" in done.stderr
    again = agentdag("validate", "-", stdin=done.stdout, cwd=folder)
    assert again.returncode == 0
    refused = agentdag("validate", "--print", "--format", "json", "good.yaml", cwd=folder)
    assert refused.returncode == 2


def test_a_secret_is_shown_in_no_format(tmp_path: Path) -> None:
    key = "sk-proj-4fT9qLw2Zx8Rk1Vb6Nc3Ym7D"
    (tmp_path / "p.yaml").write_text(f"providers: {{openai: {{api_key: {key}}}}}\n" + GOOD)
    for options in (["--format", "text"], ["--format", "json"], ["--format", "github"], ["--format", "sarif"], ["--format", "junit"], ["--print"]):  # fmt: skip
        done = agentdag("validate", "p.yaml", *options, cwd=tmp_path)
        assert key not in done.stdout + done.stderr
        assert "AD607" in done.stdout + done.stderr
    broken = agentdag("run", "p.yaml", "--simulate", "-c", "0", cwd=tmp_path)
    assert key not in broken.stdout + broken.stderr


def test_a_run_does_not_lint(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(WARNED)
    done = agentdag("run", "p.yaml", "--simulate", "--quiet", "--time-scale", "0.001", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["mermaid", "dot", "svg"])
def test_graph_draws_pictures(name: str) -> None:
    done = agentdag("graph", str(PIPELINES / "due_diligence.yaml"), "--format", name)
    assert done.returncode == 0
    assert "financial" in done.stdout
    assert done.stderr == ""


def test_graph_answers_what_if_and_what_a_second_is_worth() -> None:
    file = str(PIPELINES / "due_diligence.yaml")
    done = agentdag("graph", file, "--what-if", "financial=10s", "--what-if", "legal=1m", "--sensitivity")
    assert (
        "with financial at 10 s and legal at 60 s the critical path becomes parser, legal, summary: 110 s"
        in done.stdout
    )
    assert re.search(r"parser +1 s +30 s", done.stdout)
    told = json.loads(agentdag("graph", file, "--sensitivity", "--format", "json").stdout)
    assert told["sensitivity"][0] == {"id": "parser", "per_second_s": 1.0, "up_to_s": 30.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--what-if", "financial"], "has no `=`"),
        (["--what-if", "finacial=10s"], "did you mean `financial`?"),
        (["--what-if", "financial=10"], "names no duration"),
        (["--what-if", "financial=10s", "--format", "svg"], "are for --format text and json"),
    ],
)
def test_a_what_if_that_makes_no_sense_is_refused(options: list[str], said: str) -> None:
    done = agentdag("graph", str(PIPELINES / "due_diligence.yaml"), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_dry_run_tells_all_and_calls_nobody() -> None:
    file = str(PIPELINES / "due_diligence.yaml")
    done = agentdag("run", file, "--dry-run", "-i", "company=Acme")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Describe the market in which Acme sells" in done.stdout
    assert "time    about 95 s with 5 at once" in done.stdout
    assert re.search(r"cost    \$0\.\d+ to \$0\.\d+", done.stdout)
    assert done.stdout.index("parser:") < done.stdout.index("financial:") < done.stdout.index("summary:")
    told = json.loads(agentdag("run", file, "--dry-run", "--format", "json", "-c", "1").stdout)
    assert told["makespan_s"] == 170
    assert [node["id"] for node in told["nodes"]][-1] == "summary"
    assert float(told["low"]["cost_usd"]) < float(told["high"]["cost_usd"])
    assert agentdag("run", file, "--dry-run", "-i", "firm=Acme").returncode == 2


def test_a_dry_run_of_what_must_fail_says_so(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "inputs: {n: {type: integer}}\nnodes: {a: {prompt: '{{ 1 // inputs.n }}', model: openai/gpt-5-mini}}"
    )
    done = agentdag("run", "p.yaml", "--dry-run", "-i", "n=0", cwd=tmp_path)
    assert done.returncode == 1
    assert "would fail: {{ 1 // inputs.n }}: ZeroDivisionError" in done.stdout


@pytest.mark.parametrize(
    "text",
    ["models:\n  - name: orders\n", "nodes: {count: 3}\nimage: {tag: x}\n", "names: [a]\nnc: 1\n", "defaults: {run: {shell: bash}}\non: push\n", "# c\n" * 60 + "site_name: x\n"],
)  # fmt: skip
def test_files_of_other_programs_are_left_out(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(text)
    (tmp_path / "p.yaml").write_text(GOOD)
    done = agentdag("validate", ".", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "1 file checked" in done.stderr


def test_names_that_are_no_text_break_no_format(tmp_path: Path) -> None:
    name = "q\udcff 100%.yaml"
    (tmp_path / name).write_text(BROKEN)
    for output_format in ("text", "json", "github", "sarif", "junit"):
        done = agentdag("validate", ".", "--format", output_format, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
