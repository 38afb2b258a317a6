"""The Python face, and what an import may cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PIPELINES

import agentdag

ROOT = Path(__file__).parent.parent


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def test_all_names_are_there_and_are_what_they_say() -> None:
    for name in agentdag.__all__:
        assert getattr(agentdag, name) is not None
    assert sorted(agentdag.__all__) == agentdag.__all__
    assert {"load", "run", "arun", "RunResult", "SpecError", "UsageError", "NodeSettled", "Observer"} <= set(
        agentdag.__all__
    )
    with pytest.raises(AttributeError, match="nothing_like_this"):
        agentdag.nothing_like_this  # noqa: B018 - the look-up is the test


def test_types_are_shipped() -> None:
    assert (Path(agentdag.__file__).parent / "py.typed").exists()


def test_importing_the_package_does_nothing() -> None:
    told = python(
        "import sys; before = set(sys.modules); import agentdag; print(sorted(m for m in set(sys.modules) - before if 'agentdag' not in m))"
    )
    assert not {"asyncio", "pydantic", "jinja2", "yaml", "openai"} & set(eval(told))


HEAVY = "openai", "anthropic", "aiohttp", "mcp", "ray"


@pytest.mark.parametrize(
    ("arguments", "besides"),
    [
        (["--help"], ("genai_prices", "httpx2")),
        (["run", "--help"], ("genai_prices", "httpx2")),
        (["graph", str(PIPELINES / "due_diligence.yaml")], ("genai_prices", "httpx2")),
        (["validate", str(PIPELINES / "due_diligence.yaml")], ()),
    ],
    ids=["help", "run help", "graph", "validate"],
)
def test_no_sdk_is_imported_before_a_run(arguments: list[str], besides: tuple[str, ...]) -> None:
    code = f"""
import sys
from agentdag.cli.main import app
try:
    app({arguments!r})
except SystemExit as ended:
    assert not ended.code, ended.code
print('loaded:', [name for name in {(*HEAVY, *besides)!r} if name in sys.modules])
"""
    assert python(code).splitlines()[-1] == "loaded: []"


def test_only_the_sdk_in_use_is_imported() -> None:
    code = f"""
import sys, agentdag
from agentdag import Options
agentdag.run(agentdag.load({str(PIPELINES / "linear.yaml")!r}), options=Options(simulate=True, time_scale=0.0001))
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python(code).strip() == "[]"


def test_the_readme_promises_what_load_and_run_do(tmp_path: Path) -> None:
    plan = agentdag.load(PIPELINES / "due_diligence.yaml")
    result = agentdag.run(plan, options=agentdag.Options(simulate=True, time_scale=0.001))
    assert isinstance(result, agentdag.RunResult)
    assert result.nodes["legal"].error is None
    (tmp_path / "bad.yaml").write_text("nodes: {a: {promt: hi}, b: {prompt: 3}}")
    with pytest.raises(agentdag.SpecError) as caught:
        agentdag.load(tmp_path / "bad.yaml")
    assert len(caught.value.findings) >= 2
    assert f"{tmp_path}/bad.yaml:1:13" in str(caught.value)
