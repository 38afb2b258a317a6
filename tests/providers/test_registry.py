"""Another package's provider: installed for real, found by its entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import agentdag
from agentdag import Settings
from agentdag.providers import registry
from agentdag.providers.http import SharedHttp
from agentdag.providers.settings import Secrets, expand

PROVIDER = """
from agentdag import ErrorKind, Failure, OnDelta, Reply, Request, Settings, Usage, call_error

class Shouting:
    def __init__(self, settings: Settings) -> None:
        self.mark = settings.options.get("mark", "!")

    async def complete(self, request: Request, on_delta: OnDelta) -> Reply:
        if request.model == "broken":
            raise call_error(Failure(ErrorKind.REFUSED, "no"))
        if request.model == "odd":
            return Reply("x", Usage(cost_usd=0.5), "stop")
        if request.model == "none":
            return None
        return Reply(request.prompt.upper() + self.mark, Usage(1, 2, 0), "stop")

    async def aclose(self) -> None:
        print("closed")
        raise RuntimeError("cannot close")
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the package `shouting` as an installer would leave it there."""
    site = tmp_path / "site"
    info = site / "shouting-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "shouting.py").write_text(PROVIDER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[agentdag.providers]\nshout = shouting:Shouting\nbad = shouting:Nobody\n")
    (info / "RECORD").write_text("")
    return site


def run(folder: Path, site: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "p.yaml").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "agentdag.cli", *arguments, "p.yaml"],
        capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip


def test_an_installed_provider_is_used_under_its_type_and_under_other_names(tmp_path: Path, installed: Path) -> None:
    text = "providers: {mine: {type: shout, options: {mark: '?'}}}\nnodes: {a: {prompt: hello, model: shout/x}, b: {prompt: hello, model: mine/x}}"
    assert run(tmp_path, installed, text, "validate").returncode == 0
    done = run(tmp_path, installed, text, "run", "--quiet")
    assert done.stdout == '{\n  "a": "HELLO!",\n  "b": "HELLO?"\n}\n', done.stderr
    assert done.stderr.count("a provider could not be closed: RuntimeError: cannot close") == 2


def test_its_failures_are_failures_like_any_other(tmp_path: Path, installed: Path) -> None:
    done = run(tmp_path, installed, "nodes: {a: {prompt: hello, model: shout/broken}}", "run")
    assert done.returncode == 1
    assert "refused: no" in done.stderr


@pytest.mark.parametrize("model", ["odd", "none"])
def test_what_is_no_reply_is_that_nodes_failure(tmp_path: Path, installed: Path, model: str) -> None:
    text = f"nodes: {{a: {{prompt: hello, model: shout/{model}}}, b: {{prompt: hello, model: shout/x}}}}"
    done = run(tmp_path, installed, text, "run")
    assert done.returncode == 1
    assert "bad_response: the provider returned" in done.stderr
    assert "HELLO!" in done.stdout
    assert "Traceback" not in done.stderr


def test_one_that_cannot_be_loaded_is_told_before_the_run(tmp_path: Path, installed: Path) -> None:
    done = run(tmp_path, installed, "nodes: {a: {prompt: hello, model: bad/x}}", "run")
    assert done.returncode == 2
    assert "`bad` cannot be made" in done.stderr
    assert "Traceback" not in done.stderr


def settings(kind: str, **more: str) -> Settings:
    return Settings(name=kind, type=kind, http=SharedHttp(1), secrets=Secrets(), environment={}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "words"), [("bedrock", "boto3"), ("vertex", "google.auth"), ("azure", "endpoint")])
def test_what_an_extra_or_a_setting_lacks_is_told(monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(agentdag.UsageError, match=words):
        registry.create(settings(kind))


def test_environment_is_filled_in_and_what_came_from_it_is_secret() -> None:
    secrets = Secrets()
    value = {"a": "Bearer ${TOKEN}", "b": ["${NONE:-fallback}", 3], "c": "${EMPTY:-x}", "d": "$TOKEN {TOKEN}"}
    found = expand(value, "providers.x", {"TOKEN": "tok-123456", "EMPTY": ""}, secrets)
    assert found == {"a": "Bearer tok-123456", "b": ["fallback", 3], "c": "x", "d": "$TOKEN {TOKEN}"}
    assert secrets.redact("it is tok-123456, fallback") == "it is [secret], fallback"


def test_of_two_secrets_the_longer_goes_first() -> None:
    secrets = Secrets()
    secrets.add("secret-a")
    secrets.add("secret-a-and-more")
    assert secrets.redact("secret-a-and-more secret-a") == "[secret] [secret]"
