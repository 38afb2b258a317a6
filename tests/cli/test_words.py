"""explain, schema, init, completion and --help: what a newcomer asks first."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from conftest import PIPELINES
from program import agentdag

from agentdag.cli.explain import entries, words
from agentdag.errors import ErrorKind
from agentdag.events import Event, Exit, RunStatus, Status
from agentdag.language.codes import codes
from agentdag.language.schema import json_schema
from agentdag.language.spec import known_keys

COMMANDS = [
    "run",
    "resume",
    "pool",
    "show",
    "stats",
    "validate",
    "doctor",
    "graph",
    "init",
    "schema",
    "explain",
    "runs",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str) -> None:
    done = agentdag(command, "--help", NO_COLOR="1")
    assert done.returncode == 0
    assert f"Example: agentdag {command}" in done.stdout


def test_all_commands_are_tried_here() -> None:
    told = agentdag("--help", NO_COLOR="1").stdout
    listed = re.findall(r"^│ (\w+)  ", told.split("Commands", 1)[1], re.MULTILINE)
    assert listed == COMMANDS


def test_every_word_is_explained() -> None:
    known = set(words())
    for path in (
        (),
        ("nodes", "x"),
        ("limits",),
        ("defaults",),
        ("tiers", "x"),
        ("providers", "x"),
        ("inputs", "x"),
        ("budget",),
    ):
        assert set(known_keys(path) or ["?"]) <= known
    for kind in (*ErrorKind, *Status, *RunStatus):
        assert kind.value in known
        assert len(kind.meaning) > 15
    assert {event.type for event in get_args(Event)} <= known
    assert set(codes()) <= known
    assert {str(code.value) for code in Exit} <= known
    assert all(entry.text for entry in entries())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("timeout", ["limits.timeout", "nodes.<id>.timeout", "kind of error", "a duration: 500ms, 45s, 2m30s or 2h", "timeout: 45s"]),
        ("retry.on", ["The kinds of failure that are repeated", "on: [rate_limit, server]", "a list of bad_response"]),
        ("nodes.timeout", ["Bounds one attempt"]),
        ("ad501", ["AD501 - warning", "wrong", "right", "needs: [financial]"]),
        ("node.settled", ["event", "latency_s", "waits"]),
        ("rate_limit", ["kind of error", "429"]),
        ("timed_out", ["status of a node"]),
        ("exit 2", ["invalid pipeline"]),
        ("missing", ["name in templates"]),
        ("model", ["provider/model", "tiers.<name>.model"]),
    ],
)  # fmt: skip
def test_explain_says_what_a_word_means(word: str, said: list[str]) -> None:
    done = agentdag("explain", word)
    assert done.returncode == 0
    for each in said:
        assert each in done.stdout


def test_a_word_that_nobody_knows_gets_a_did_you_mean() -> None:
    done = agentdag("explain", "timout")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean `timeout`?" in done.stderr


def test_explain_alone_lists_all_words() -> None:
    told = agentdag("explain").stdout
    assert all(word in told for word in words())


def test_schema_prints_what_the_language_says() -> None:
    assert json.loads(agentdag("schema").stdout) == json_schema()


def test_init_writes_a_pipeline_that_is_good_and_runs(tmp_path: Path) -> None:
    done = agentdag("init", "new", cwd=tmp_path)
    assert done.returncode == 0
    folder = tmp_path / "new"
    text = (folder / "pipeline.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=pipeline.schema.json\n")
    assert json.loads((folder / "pipeline.schema.json").read_text()) == json_schema()
    checked = agentdag("validate", "--strict", ".", cwd=folder)
    assert checked.returncode == 0
    assert checked.stderr.startswith("pipeline.yaml: a run costs $")
    assert checked.stderr.endswith("\n1 file checked: no problems\n")
    ran = agentdag("run", "pipeline.yaml", "--simulate", "--quiet", "--time-scale", "0.001", cwd=folder)
    assert ran.returncode == 0
    assert ran.stdout.startswith("[gpt-5, simulated]")


def test_init_never_writes_over_anything(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("mine")
    done = agentdag("init", cwd=tmp_path)
    assert done.returncode == 2
    assert "pipeline.yaml" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["pipeline.yaml"]
    assert (tmp_path / "pipeline.yaml").read_text() == "mine"


NAMED_SHELL = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
"""Typer else looks among the processes above for a shell, which a CI server may not have there."""
BASH = """
source <(agentdag --show-completion bash)
complete_line() {
  COMP_LINE="$1"; read -ra COMP_WORDS <<< "$1"; [[ "$1" == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=(); _agentdag_completion agentdag; printf '%s\\n' "${COMPREPLY[@]}"
}
complete_line "$LINE"
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("agentdag gr", {"graph"}),
        ("agentdag ", set(COMMANDS)),
        ("agentdag graph {file} --what-if f", {"financial="}),
        ("agentdag run {file} -i ", {"company=", "filing="}),
        ("agentdag explain AD40", {"AD401", "AD402", "AD403", "AD404", "AD405", "AD406"}),
        ("agentdag validate {file} --format s", {"sarif"}),
        ("agentdag graph no-such-file.yaml --what-if f", set()),
    ],
)
def test_bash_completes(line: str, offered: set[str]) -> None:
    folder = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", BASH],
        env={**NAMED_SHELL, "PATH": f"{folder}:/usr/bin:/bin", "LINE": line.format(file=PIPELINES / "due_diligence.yaml")},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


def test_files_are_left_to_bash() -> None:
    assert "complete -o default" in agentdag("--show-completion", "bash", **NAMED_SHELL).stdout
