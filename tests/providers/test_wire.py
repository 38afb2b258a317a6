"""Both real SDKs against wire-true servers: every fault ends as the failure that FAULTS names."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from wire import ANSWER, WireServer

import agentdag
from agentdag import ErrorKind, Options, RunResult, Status
from agentdag.plan.plan import Plan

Compile = Callable[[str], Plan]
KEY = "sk-canary-0123456789"
BOTH = pytest.mark.parametrize("provider", ["openai", "anthropic"])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def ask(
    plan: Compile,
    wire: WireServer,
    provider: str,
    model: str,
    *,
    stream: bool = False,
    extra: str = "",
    retry: str = "0",
) -> RunResult:
    """A run of one node that asks *model* of *provider*."""
    base = wire.openai_url if provider == "openai" else wire.url
    text = f"""
        providers: {{{provider}: {{base_url: "{base}", api_key: {KEY}}}}}
        nodes:
          only:
            model: {provider}/{model}
            prompt: Say hello
            retry: {{retries: {retry}, delay: 1ms, max_delay: 5s}}
            timeout: 20s
            {extra}
    """
    return agentdag.run(plan(text), options=Options(stream=stream))


@BOTH
@STREAMS
def test_an_answer_comes_with_its_text_and_its_usage(
    plan: Compile, wire: WireServer, provider: str, stream: bool
) -> None:
    result = ask(plan, wire, provider, "m", stream=stream)
    node = result.nodes["only"]
    assert node.status is Status.SUCCEEDED, node.error
    assert result.outputs == {"only": ANSWER}
    assert (node.usage.input_tokens, node.usage.output_tokens, node.usage.cached_tokens) == (40, 9, 8)
    assert node.usage.cost_usd is None
    assert not node.usage.estimated
    assert (node.ttft_s is not None) == stream
    assert len(wire.calls) == 1


@BOTH
def test_parameters_arrive_as_the_protocol_names_them(plan: Compile, wire: WireServer, provider: str) -> None:
    extra = "system: Be kind\n            max_tokens: 77\n            temperature: 0.5\n            stop: [END]"
    extra += "\n            params: {metadata: {user_id: u1}}"
    ask(plan, wire, provider, "m", extra=extra)
    body = wire.calls[0].body
    assert body["max_tokens"] == 77
    assert body["temperature"] == 0.5
    assert body["metadata"] == {"user_id": "u1"}
    if provider == "openai":
        assert body["messages"][0] == {"role": "system", "content": "Be kind"}
        assert body["stop"] == ["END"]
    else:
        assert body["system"] == "Be kind"
        assert body["stop_sequences"] == ["END"]
    assert wire.calls[0].headers["Authorization"] == f"Bearer {KEY}"


@BOTH
def test_headers_are_sent_as_the_file_says(plan: Compile, wire: WireServer, provider: str) -> None:
    """Some gateways want the key in a header of their own."""
    base = wire.openai_url if provider == "openai" else wire.url
    text = f"""
        providers: {{{provider}: {{base_url: "{base}", headers: {{X-Api-Key: abc, X-Team: blue}}}}}}
        nodes: {{only: {{model: {provider}/m, prompt: hi}}}}
    """
    assert agentdag.run(plan(text)).ok
    assert (wire.calls[0].headers["X-Api-Key"], wire.calls[0].headers["X-Team"]) == ("abc", "blue")


FAULTY = [
    ("429", ErrorKind.RATE_LIMIT, 429, "no"),
    ("500", ErrorKind.SERVER, 500, "maybe"),
    ("502", ErrorKind.SERVER, 502, "maybe"),
    ("503", ErrorKind.SERVER, 503, "maybe"),
    ("504", ErrorKind.SERVER, 504, "maybe"),
    ("529", ErrorKind.OVERLOADED, 529, "no"),
    ("401", ErrorKind.AUTH, 401, "no"),
    ("403", ErrorKind.AUTH, 403, "no"),
    ("404", ErrorKind.BAD_REQUEST, 404, "no"),
    ("413", ErrorKind.TOO_LONG, 413, "no"),
    ("coded:429,insufficient_quota,You exceeded your current quota", ErrorKind.QUOTA, 429, "no"),
    ("coded:400,context_length_exceeded,too many tokens", ErrorKind.TOO_LONG, 400, "no"),
    ("coded:400,,prompt is too long: 210000 tokens > 200000 maximum", ErrorKind.TOO_LONG, 400, "no"),
    ("coded:400,content_filter,blocked", ErrorKind.REFUSED, 400, "no"),
    ("coded:400,,bad temperature", ErrorKind.BAD_REQUEST, 400, "no"),
    ("html", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("raw:truncated", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("raw:empty", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("raw:utf8", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("raw:list", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("empty_choices", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("null_choices", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("error200", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("empty_text", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("refusal", ErrorKind.REFUSED, 200, "yes"),
    ("content_filter", ErrorKind.REFUSED, 200, "yes"),
    ("reset", ErrorKind.CONNECTION, None, "maybe"),
    ("reset:before", ErrorKind.CONNECTION, None, "maybe"),
    ("huge", ErrorKind.BAD_RESPONSE, 200, "maybe"),
    ("huge:gzip", ErrorKind.BAD_RESPONSE, 200, "maybe"),
]


@BOTH
@STREAMS
@pytest.mark.parametrize(("fault", "kind", "status", "billed"), FAULTY, ids=[fault[0][:24] for fault in FAULTY])
def test_every_fault_becomes_its_failure(
    plan: Compile,
    wire: WireServer,
    provider: str,
    stream: bool,
    fault: str,
    kind: ErrorKind,
    status: int | None,
    billed: str,
) -> None:
    wire.script["m"] = [fault]
    node = ask(plan, wire, provider, "m", stream=stream).nodes["only"]
    assert node.error is not None
    assert (node.error.kind, node.error.status, node.error.billed) == (kind, status, billed), node.error
    assert node.error.provider == provider
    assert node.error.message
    assert KEY not in repr(node)
    assert len(wire.calls) == 1


@BOTH
@pytest.mark.parametrize("fault", ["no_end", "error_event"])
def test_a_stream_without_its_end_is_never_a_success(
    plan: Compile, wire: WireServer, provider: str, fault: str
) -> None:
    wire.script["m"] = [fault]
    node = ask(plan, wire, provider, "m", stream=True).nodes["only"]
    kinds = {
        ("no_end", "openai"): ErrorKind.BAD_RESPONSE,
        ("no_end", "anthropic"): ErrorKind.BAD_RESPONSE,
        ("error_event", "openai"): ErrorKind.RATE_LIMIT,
        ("error_event", "anthropic"): ErrorKind.OVERLOADED,
    }
    assert node.error is not None
    assert node.error.kind is kinds[fault, provider]


@BOTH
@STREAMS
@pytest.mark.parametrize("fault", ["429", "500", "529", "html", "raw:truncated", "reset", "empty_choices", "error200"])
def test_what_may_get_better_is_retried_and_comes_out_right(
    plan: Compile, wire: WireServer, provider: str, stream: bool, fault: str
) -> None:
    wire.script["m"] = [fault, fault, "ok"]
    result = ask(plan, wire, provider, "m", stream=stream, retry="3")
    assert result.outputs == {"only": ANSWER}
    assert result.nodes["only"].attempts == 3
    assert len(wire.calls) == 3


@BOTH
@pytest.mark.parametrize(
    "fault", ["401", "403", "404", "413", "refusal", "coded:429,insufficient_quota,no money", "huge"]
)
def test_what_cannot_get_better_is_asked_once(plan: Compile, wire: WireServer, provider: str, fault: str) -> None:
    wire.script["m"] = [fault]
    ask(plan, wire, provider, "m", retry="5")
    assert len(wire.calls) == 1


@BOTH
@pytest.mark.parametrize("header", ["retry-after-ms=700", "retry-after=0.7"])
def test_retry_after_is_obeyed(plan: Compile, wire: WireServer, provider: str, header: str) -> None:
    wire.script["m"] = [f"429:{header}", "ok"]
    node = ask(plan, wire, provider, "m", retry="2").nodes["only"]
    assert node.status is Status.SUCCEEDED
    assert node.waits["rate"] >= 0.69


@BOTH
@pytest.mark.parametrize("header", ["retry-after=300", "retry-after=Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_retry_after_beyond_the_longest_delay_fails_at_once(
    plan: Compile, wire: WireServer, provider: str, header: str
) -> None:
    wire.script["m"] = [f"429:{header}", "ok"]
    node = ask(plan, wire, provider, "m", retry="3").nodes["only"]
    assert node.error is not None
    assert node.error.retry_after_s is not None
    assert node.error.retry_after_s >= 300
    assert len(wire.calls) == 1


@BOTH
@pytest.mark.parametrize(
    ("fault", "stream"), [("stall", False), ("stall", True), ("stall:begun", True), ("stall:alive", True)]
)
def test_silence_is_cut_at_the_attempts_timeout(
    plan: Compile, wire: WireServer, provider: str, fault: str, stream: bool
) -> None:
    wire.script["m"] = [fault]
    base = wire.openai_url if provider == "openai" else wire.url
    text = f"""
        providers: {{{provider}: {{base_url: "{base}"}}}}
        nodes: {{only: {{model: {provider}/m, prompt: hi, retry: 1, timeout: 300ms}}}}
    """
    node = agentdag.run(
        plan(text.replace("retry: 1", "retry: {retries: 1, delay: 1ms}")), options=Options(stream=stream)
    ).nodes["only"]
    assert node.status is Status.TIMED_OUT
    assert node.attempts == 2
    assert node.error is not None
    assert node.error.billed == "maybe"
    assert len(wire.calls) == 2


@BOTH
@STREAMS
def test_an_answer_without_usage_is_a_success_with_an_estimate(
    plan: Compile, wire: WireServer, provider: str, stream: bool
) -> None:
    wire.script["m"] = ["no_usage"]
    usage = ask(plan, wire, provider, "m", stream=stream).nodes["only"].usage
    assert usage.estimated
    assert usage.output_tokens == round(len(ANSWER.encode()) / 3.5)


@BOTH
def test_an_answer_in_parts_or_compressed_is_read(plan: Compile, wire: WireServer, provider: str) -> None:
    wire.script = {"m": ["parts"], "z": ["gzip"]}
    assert ask(plan, wire, provider, "m").outputs == {"only": "Hello parts"}
    assert ask(plan, wire, provider, "z").outputs == {"only": ANSWER}


@BOTH
def test_a_refused_connection_is_retried_and_costs_nothing(plan: Compile, wire: WireServer, provider: str) -> None:
    wire.url = "http://127.0.0.1:1"
    node = ask(plan, wire, provider, "m", retry="1").nodes["only"]
    assert node.error is not None
    assert (node.error.kind, node.error.billed, node.attempts) == (ErrorKind.CONNECTION, "no", 2)


@BOTH
def test_a_server_without_tls_is_final(plan: Compile, wire: WireServer, provider: str) -> None:
    wire.url = wire.url.replace("http://", "https://")
    node = ask(plan, wire, provider, "m", retry="3").nodes["only"]
    assert node.error is not None
    assert (node.error.kind, node.error.billed, node.attempts) == (ErrorKind.CONNECTION, "no", 1)
    assert "TLS" in node.error.message


@BOTH
def test_a_bad_key_shuts_the_model_for_the_run(plan: Compile, wire: WireServer, provider: str) -> None:
    base = wire.openai_url if provider == "openai" else wire.url
    nodes = "\n".join(f"  n{i}: {{model: {provider}/m, prompt: hi}}" for i in range(30))
    text = f'providers: {{{provider}: {{base_url: "{base}"}}}}\nlimits: {{concurrency: 3}}\nnodes:\n{nodes}\n'
    wire.script["m"] = ["401"]
    result = agentdag.run(plan(text))
    assert {node.error.kind for node in result.nodes.values() if node.error} == {ErrorKind.AUTH}
    assert len(result.nodes) == 30
    assert len(wire.calls) <= 3


@BOTH
def test_a_server_that_answers_whole_where_a_stream_was_asked_is_understood(
    plan: Compile, wire: WireServer, provider: str
) -> None:
    wire.script = {"m": ["whole"], "e": ["coded:200,overloaded,not now"]}
    assert ask(plan, wire, provider, "m", stream=True).outputs == {"only": ANSWER}
    error = ask(plan, wire, provider, "e", stream=True).nodes["only"].error
    assert error is not None
    assert error.kind is ErrorKind.OVERLOADED


@BOTH
def test_prompts_and_keys_follow_no_redirect(plan: Compile, wire: WireServer, provider: str) -> None:
    wire.script["m"] = [f"307:location={wire.url}/elsewhere"]
    error = ask(plan, wire, provider, "m", retry="3").nodes["only"].error
    assert error is not None
    assert "redirects to" in error.message
    assert len(wire.calls) == 1


@BOTH
def test_a_cut_answer_says_so_and_a_doubtful_attempt_makes_the_cost_unknown(
    plan: Compile, wire: WireServer, provider: str
) -> None:
    wire.script["m"] = ["reset", "ok"]
    node = ask(plan, wire, provider, "m", retry="1").nodes["only"]
    assert node.usage.estimated
    assert node.usage.cost is None
    assert node.finish_reason in {"stop", "end_turn"}


def test_both_sdks_share_one_run_and_its_cap(plan: Compile, wire: WireServer) -> None:
    nodes = "\n".join(f"  n{i}: {{model: {'openai' if i % 2 else 'anthropic'}/m{i}, prompt: hi}}" for i in range(24))
    text = f"""providers: {{openai: {{base_url: "{wire.openai_url}"}}, anthropic: {{base_url: "{wire.url}"}}}}
limits: {{concurrency: 6}}
nodes:
{nodes}
"""
    wire.latency_s = 0.05
    result = agentdag.run(plan(text))
    assert result.ok
    assert len(wire.calls) == 24
    assert wire.peak <= 6


def test_azure_goes_through_the_sdks_own_client(plan: Compile, wire: WireServer) -> None:
    text = f"""
        providers: {{work: {{type: azure, base_url: "{wire.url}", api_key: {KEY}, api_version: 2024-10-21}}}}
        nodes: {{only: {{model: work/gpt-x, prompt: hi}}}}
    """
    assert agentdag.run(plan(text)).outputs == {"only": ANSWER}
    assert wire.calls[0].path == "/openai/deployments/gpt-x/chat/completions"
    assert wire.calls[0].headers["api-key"] == KEY
    assert wire.calls[0].body["model"] == "gpt-x"


@STREAMS
def test_vertex_goes_through_the_sdks_own_client(plan: Compile, wire: WireServer, stream: bool) -> None:
    text = f"""
        providers: {{g: {{type: vertex, base_url: "{wire.url}", region: europe-west1, project: p1, api_key: {KEY}}}}}
        nodes: {{only: {{model: g/claude-x, prompt: hi}}}}
    """
    assert agentdag.run(plan(text), options=Options(stream=stream)).outputs == {"only": ANSWER}
    verb = "streamRawPredict" if stream else "rawPredict"
    assert wire.calls[0].path == f"/projects/p1/locations/europe-west1/publishers/anthropic/models/claude-x:{verb}"
    assert wire.calls[0].headers["Authorization"] == f"Bearer {KEY}"


def test_bedrock_without_credentials_is_found_before_the_run(
    plan: Compile, wire: WireServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    text = f"""
        providers: {{aws: {{type: bedrock, base_url: "{wire.url}", region: eu-central-1}}}}
        nodes: {{only: {{model: aws/anthropic.claude-x, prompt: hi}}}}
    """
    with pytest.raises(agentdag.UsageError, match="`aws` finds no AWS credentials"):
        agentdag.run(plan(text))
    assert not wire.calls


@STREAMS
def test_bedrock_goes_through_the_sdks_own_client_and_signs(
    plan: Compile, wire: WireServer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    text = f"""
        providers: {{aws: {{type: bedrock, base_url: "{wire.url}", region: eu-central-1}}}}
        nodes: {{only: {{model: aws/anthropic.claude-x, prompt: hi}}}}
    """
    result = agentdag.run(plan(text), options=Options(stream=stream))
    assert result.outputs == {"only": ANSWER}, result.nodes["only"].error
    assert wire.calls[0].path.startswith("/model/anthropic.claude-x/invoke")
    assert wire.calls[0].headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")


def test_a_provider_setting_turns_streaming_on_and_off(plan: Compile, wire: WireServer) -> None:
    for setting in (True, False):
        text = f"""
            providers: {{openai: {{base_url: "{wire.openai_url}", stream: {str(setting).lower()}}}}}
            nodes: {{only: {{model: openai/m, prompt: hi}}}}
        """
        assert agentdag.run(plan(text), options=Options(stream=not setting)).ok
    assert [call.body.get("stream", False) for call in wire.calls] == [True, False]


def test_a_secret_that_the_server_repeats_is_taken_out(
    plan: Compile, wire: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_KEY", KEY)
    wire.script = {"echo": ["echo_key"], "fail": [f"coded:400,,your key {KEY} is odd"]}
    text = f"""
        providers: {{openai: {{base_url: "{wire.openai_url}", api_key: "${{CANARY_KEY}}"}}}}
        nodes:
          echo: {{model: openai/echo, prompt: "I know {KEY}"}}
          fail: {{model: openai/fail, prompt: hi}}
    """
    events: list[str] = []
    result = agentdag.run(plan(text), observers=(lambda event: events.append(agentdag.event_json(event)),))
    assert wire.calls[0].headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in repr(result)
    assert KEY not in "".join(events)
    assert result.outputs["echo"] == "I know [secret]"


def test_a_servers_own_address_never_gets_the_providers_key(
    plan: Compile, wire: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    text = f"""
        providers: {{local: {{type: openai, base_url: "{wire.openai_url}"}}}}
        nodes: {{only: {{model: local/m, prompt: hi}}}}
    """
    assert agentdag.run(plan(text)).ok
    assert KEY not in str(wire.calls[0].headers)


@pytest.mark.parametrize(("provider", "variable"), [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")])
def test_a_missing_key_is_told_before_any_call(
    plan: Compile, monkeypatch: pytest.MonkeyPatch, provider: str, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(agentdag.UsageError, match=variable):
        agentdag.run(plan(f"nodes: {{only: {{model: {provider}/m, prompt: hi}}}}"))


def test_a_missing_variable_is_told_before_any_call(plan: Compile) -> None:
    text = 'providers: {openai: {api_key: "${NO_SUCH_VARIABLE_HERE}"}}\nnodes: {a: {model: openai/m, prompt: hi}}'
    with pytest.raises(agentdag.UsageError, match=r"providers.openai.api_key reads \$\{NO_SUCH_VARIABLE_HERE\}"):
        agentdag.run(plan(text))


def test_all_missing_keys_are_told_at_once(plan: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    found = plan("nodes: {a: {model: openai/m, prompt: hi}, b: {model: anthropic/m, prompt: hi}}")
    with pytest.raises(agentdag.UsageError, match=r"(?s)ANTHROPIC_API_KEY is not set; .*OPENAI_API_KEY is not set"):
        agentdag.run(found)


def test_a_huge_body_costs_little_memory(tmp_path: Path, wire: WireServer) -> None:
    """In a process of its own, so that its peak is its own."""
    wire.script["m"] = ["huge:gzip"]
    code = f"""
import resource, agentdag
from agentdag.plan.compile import compile_text
from agentdag.providers.registry import provider_types
from pathlib import Path
def run(model):
    text = 'providers: {{openai: {{base_url: "{wire.openai_url}"}}}}\\nnodes: {{a: {{model: openai/' + model + ', prompt: hi, retry: 0}}}}'
    return agentdag.run(compile_text(text, Path("p.yaml"), provider_types=provider_types()).plan)
assert run("small").ok
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert not run("m").ok
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert int(done.stdout) < 96 * 1024, done.stdout  # KiB: 32 MiB of body, and room for its copies
    assert resource.RUSAGE_SELF == 0
