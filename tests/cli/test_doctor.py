"""`doctor`: what a newcomer forgot, told before the run; and what stands between this machine and a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from program import agentdag as program
from raw import Raw, RawServer, completion, refusal, sse
from strict_openai import StrictOpenAI

ODD = Path(__file__).parent.parent / "agents" / "odd_mcp_server.py"
CLEAN = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"), "")


def examined(
    tmp_path: Path, text: str, *more: str, environment: dict[str, str] | None = None
) -> tuple[int, list[dict[str, Any]]]:
    (tmp_path / "p.yaml").write_text(text)
    done = program("doctor", "p.yaml", "--format", "json", *more, cwd=tmp_path, **{**CLEAN, **(environment or {})})
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["checks"]


def of(checks: list[dict[str, Any]], area: str) -> list[tuple[str, str]]:
    return [(check["state"], check["found"]) for check in checks if check["area"] == area]


def test_without_a_pipeline_it_looks_at_what_every_run_needs(tmp_path: Path) -> None:
    done = program("doctor", cwd=tmp_path, **CLEAN)
    assert done.returncode == 0, done.stderr
    assert "agentdag " in done.stdout
    assert "OPENAI_API_KEY is not set" in done.stdout
    assert "nothing is wrong" in done.stdout
    assert not (tmp_path / ".agentdag").exists()


def test_a_healthy_pipeline(tmp_path: Path, strict: StrictOpenAI) -> None:
    text = f"""
providers: {{openai: {{base_url: "{strict.url}/v1", api_key: "${{TEAM_KEY}}", api: responses}}}}
tools: {{odd: {{mcp: {{command: {json.dumps([sys.executable, str(ODD), "plain"])}}}}}}}
nodes: {{a: {{model: openai/gpt-5-mini, prompt: hi, tools: [odd]}}}}
"""
    code, checks = examined(tmp_path, text, "--call", environment={"TEAM_KEY": "sk-team-1\n"})
    assert code == 0, checks
    assert of(checks, "server")[0][1].endswith("and lists 2 models")
    assert of(checks, "model") == [("ok", "openai/gpt-5-mini: listed, price known")]
    assert "answered in" in of(checks, "call")[0][1]
    assert of(checks, "tools")[0][1].startswith("odd: 1 tool within")
    assert strict.asked[0][1]["max_output_tokens"] == 16
    assert {keys["authorization"] for keys in strict.keys} == {"Bearer sk-team-1"}
    assert "sk-team-1" not in json.dumps(checks)


def test_what_is_forgotten_is_named_with_its_mend(tmp_path: Path, strict: StrictOpenAI) -> None:
    text = f"""
providers:
  mine: {{type: openai, base_url: "{strict.url}/v1"}}
  away: {{type: openai, base_url: "http://127.0.0.1:9/v1"}}
  team: {{type: openai, base_url: "{strict.url}/v1", api_key: "${{NOWHERE}}"}}
tools: {{gone: {{mcp: {{command: [there-is-no-such-server]}}}}}}
nodes:
  a: {{model: mine/gpt-5-mimi, prompt: hi, tools: [gone]}}
  b: {{model: away/m, prompt: hi}}
  c: {{model: team/m, prompt: hi}}
  d: {{model: openai/gpt-5-mini, prompt: hi}}
"""
    code, checks = examined(tmp_path, text)
    assert code == 1
    keys, servers = of(checks, "provider"), of(checks, "server")
    assert ("wrong", "`openai` needs an API key: OPENAI_API_KEY is not set") in keys
    assert any(state == "wrong" and "NOWHERE" in found for state, found in keys)
    assert any(state == "wrong" and "http://127.0.0.1:9/v1 cannot be reached" in found for state, found in servers)
    assert of(checks, "model")[1][0] == "warning"
    hints = [check["hint"] for check in checks if check["area"] == "model"]
    assert "did you mean `gpt-5-mini`?" in hints
    assert of(checks, "tools")[0][0] == "wrong"
    assert "`gone` cannot be reached" in of(checks, "tools")[0][1]


def test_a_wrong_key_and_a_refused_parameter_are_seen(tmp_path: Path, strict: StrictOpenAI) -> None:
    locked = RawServer(refusal("Incorrect API key provided: sk-canary-77", 401, code="invalid_api_key"))
    locked.serve()
    text = f"""
providers:
  locked: {{type: openai, base_url: "{locked.url}/v1", api_key: sk-canary-77}}
  mine: {{type: openai, base_url: "{strict.url}/v1"}}
nodes:
  a: {{model: locked/m, prompt: hi}}
  b: {{model: mine/gpt-5-mini, prompt: hi, temperature: 0.2}}
"""
    try:
        code, checks = examined(tmp_path, text, "--call")
    finally:
        locked.stop()
    assert code == 1
    assert "Incorrect API key" in of(checks, "server")[0][1]
    assert "sk-canary-77" not in json.dumps(checks)
    state, found = of(checks, "call")[0]
    assert state == "wrong"
    assert "`temperature`" in found


def test_what_was_put_right_is_a_warning_with_its_line(tmp_path: Path) -> None:
    server = RawServer(
        Raw('{"data": []}'),
        refusal("Unknown parameter: 'stream_options'."),
        sse({"choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": "stop"}]}),
    )
    server.serve()
    try:
        text = f'providers: {{p: {{type: openai, base_url: "{server.url}/v1"}}}}\nnodes: {{a: {{model: p/m, prompt: hi}}}}\n'
        code, checks = examined(tmp_path, text, "--call")
    finally:
        server.stop()
    assert code == 0
    call = next(check for check in checks if check["area"] == "call")
    assert call["state"] == "warning"
    assert "omit: [stream_options]" in call["hint"]


def test_a_store_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("a file, no folder")
    done = program("doctor", "--store", "s/below", cwd=tmp_path, **CLEAN)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "journal.sqlite").write_bytes(b"no database at all, and longer than a header of one would be" * 40)
    worse = program("doctor", "--store", "broken", cwd=tmp_path, **CLEAN)
    assert worse.returncode == 1
    assert "wrong" in worse.stdout
    assert done.returncode in {0, 1}


def pipeline(tmp_path: Path, url: str, node: str = "model: p/m, prompt: hi") -> None:
    (tmp_path / "p.yaml").write_text(
        f'providers: {{p: {{type: openai, base_url: "{url}", prices: {{input: 0, output: 0}}}}}}\n'
        f"nodes: {{a: {{{node}, retry: 0}}}}\n"
    )


def run(tmp_path: Path, **environment: str) -> Any:
    return program("run", "p.yaml", "--no-store", "--format", "json", cwd=tmp_path, **{**CLEAN, **environment})


def test_models_and_remote_agents_are_reached_by_the_same_proxy(tmp_path: Path) -> None:
    proxy = RawServer(lambda body: completion() if body else Raw('{"said": "hello"}'))
    proxy.serve()
    try:
        pipeline(tmp_path, "http://model.invalid/v1")
        assert run(tmp_path, HTTP_PROXY=proxy.url).returncode == 0
        pipeline(tmp_path, "http://x/v1", 'http: {url: "http://agent.invalid/ask"}')
        done = run(tmp_path, HTTP_PROXY=proxy.url)
        assert done.returncode == 0, done.stdout
        assert len(proxy.asked) == 2
        pipeline(tmp_path, "http://x/v1", 'http: {url: "http://agent.invalid/ask"}')
        assert run(tmp_path, HTTP_PROXY=proxy.url, NO_PROXY="agent.invalid").returncode == 1
        assert len(proxy.asked) == 2
    finally:
        proxy.stop()


def test_a_proxy_is_no_way_around_private_addresses(tmp_path: Path) -> None:
    proxy = RawServer(Raw('{"said": "hello"}'))
    proxy.serve()
    try:
        (tmp_path / "p.yaml").write_text(
            'inputs: {host: {}}\nnodes: {a: {http: {url: "http://{{ inputs.host }}:1/ask"}, retry: 0}}\n'
        )
        for host in ("localhost", "127.0.0.1", "169.254.169.254"):
            given = ("--no-store", "--format", "json", "-i", f"host={host}")
            done = program("run", "p.yaml", *given, cwd=tmp_path, **{**CLEAN, "HTTP_PROXY": proxy.url})
            assert done.returncode == 1, done.stderr
            assert "allow_private" in done.stdout
        assert not proxy.asked
    finally:
        proxy.stop()


NAMED = [
    ({"ALL_PROXY": "socks5://user:secret-9@127.0.0.1:1"}, "ALL_PROXY=socks5://127.0.0.1:1 is a SOCKS proxy"),
    ({"HTTP_PROXY": "nonsense"}, "HTTP_PROXY=nonsense is no address of a proxy"),
    ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "SSL_CERT_FILE=/nowhere/ca.pem: there is no such file"),
]


@pytest.mark.parametrize(("environment", "words"), NAMED)
def test_what_is_wrong_with_the_way_is_named_before_any_call(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    pipeline(tmp_path, "http://model.invalid/v1")
    done = run(tmp_path, **environment)
    assert done.returncode == 2
    assert words in done.stderr
    assert "secret-9" not in done.stderr


def test_an_error_names_the_proxy_that_it_came_through(tmp_path: Path) -> None:
    pipeline(tmp_path, "http://model.invalid/v1")
    assert (
        "(through the proxy http://127.0.0.1:9 of HTTP_PROXY)" in run(tmp_path, HTTP_PROXY="http://127.0.0.1:9").stdout
    )
    pipeline(tmp_path, "http://x/v1", 'http: {url: "http://agent.invalid/ask"}')
    assert (
        "(through the proxy http://127.0.0.1:9 of HTTP_PROXY)" in run(tmp_path, HTTP_PROXY="http://127.0.0.1:9").stdout
    )


def test_a_key_with_a_line_end_within_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("nodes: {a: {model: openai/gpt-5-mini, prompt: hi}}\n")
    done = run(tmp_path, OPENAI_API_KEY="sk-first\nsk-second")
    assert done.returncode == 2
    assert "OPENAI_API_KEY is no key: it has '\\n' as character 9" in done.stderr
    assert "sk-first" not in done.stderr


def test_the_doctor_keeps_what_the_environment_holds_to_itself(tmp_path: Path, strict: StrictOpenAI) -> None:
    text = 'providers: {g: {type: openai, base_url: "${GATEWAY}/v1"}}\nnodes: {a: {model: g/gpt-5-mini, prompt: hi}}\n'
    _, checks = examined(tmp_path, text, environment={"GATEWAY": strict.url})
    assert strict.url not in json.dumps(checks)


@pytest.mark.parametrize("address", ["http://host:port", "ftp://host", "http://", "http://ho st"])
def test_an_address_that_is_none_is_named(tmp_path: Path, address: str) -> None:
    text = 'providers: {g: {type: openai, base_url: "${GATEWAY}"}}\nnodes: {a: {model: g/m, prompt: hi}}\n'
    (tmp_path / "p.yaml").write_text(text)
    done = run(tmp_path, GATEWAY=address)
    assert done.returncode == 2
    assert "`providers.g.base_url` is no address" in done.stderr


def test_a_broken_pipeline_is_told_as_validate_tells_it(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("nodes: {a: {model: openai/gpt-5-mini, promt: hi}}\n")
    done = program("doctor", "p.yaml", cwd=tmp_path, **CLEAN)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean `prompt`?" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_at_which_nothing_is_is_no_healthy_server(tmp_path: Path) -> None:
    nothing = RawServer(refusal("Not Found", 404))
    nothing.serve()
    text = f"""
providers: {{mine: {{type: openai, base_url: "{nothing.url}"}}}}
nodes: {{a: {{model: mine/m, prompt: hi}}}}
"""
    try:
        _, checks = examined(tmp_path, text)
    finally:
        nothing.stop()
    (check,) = (check for check in checks if check["area"] == "server")
    assert (check["state"], check["hint"]) == ("warning", f"try `base_url: {nothing.url}/v1`")


def test_a_proxy_that_is_away_is_what_is_to_be_mended(tmp_path: Path, strict: StrictOpenAI) -> None:
    text = f"""
providers: {{mine: {{type: openai, base_url: "{strict.url}/v1"}}}}
nodes: {{a: {{model: mine/gpt-5-mini, prompt: hi}}}}
"""
    away = {"HTTP_PROXY": "http://127.0.0.1:9"}
    code, checks = examined(tmp_path, text, environment=away)
    (check,) = (check for check in checks if check["area"] == "server")
    assert (code, check["hint"]) == (1, "correct HTTP_PROXY, or exempt the server: NO_PROXY=127.0.0.1")
    code, checks = examined(tmp_path, text, environment={**away, "NO_PROXY": "10.0.0.0/8, 127.0.0.0/8"})
    (check,) = (check for check in checks if check["area"] == "server")
    assert (code, check["state"]) == (0, "ok")
    assert "proxy" not in check["found"]
