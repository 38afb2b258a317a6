"""What servers really send, to the byte, and what it has to come to. Where a case has a public source, it is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import agentdag as program
from raw import JSON, SSE, Raw, RawServer, chunk, completion, refusal, sse

import agentdag
from agentdag import ErrorKind, Options, RunResult, Status
from agentdag.events import Event, NodeWarned
from agentdag.plan.plan import Plan
from agentdag.providers.refusals import refused

Compile = Callable[[str], Plan]
Serve = Callable[..., RawServer]


def ask(
    plan: Compile,
    server: RawServer,
    *,
    node: str = "",
    stream: bool = False,
    kind: str = "openai",
    more: str = "",
    top: str = "",
    retry: int = 0,
    path: str = "/v1",
    seen: list[Event] | None = None,
) -> RunResult:
    base = server.url + (path if kind == "openai" else "")
    text = f"""
        providers: {{p: {{type: {kind}, base_url: "{base}", api_key: sk-bytes-1, {more}}}}}
        nodes:
          only: {{model: p/m, prompt: Say hello, retry: {{retries: {retry}, delay: 1ms}}, timeout: 20s, {node}}}
        {top}
    """
    observers = () if seen is None else (seen.append,)
    return agentdag.run(plan(text), options=Options(stream=stream), observers=observers)


def outcome(result: RunResult) -> tuple[Any, ErrorKind | None, str]:
    node = result.nodes["only"]
    return (
        node.output,
        None if node.error is None else node.error.kind,
        "" if node.error is None else node.error.message,
    )


HELLO = [chunk({"role": "assistant", "content": ""}), chunk({"content": "hel"}), chunk({"content": "lo"})]
ENDED = [*HELLO, chunk({}, "stop")]
USAGE = {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}

WHOLE_STREAMS: dict[str, Raw] = {
    "plain": sse(*ENDED, USAGE),
    "[DONE] without a reason is a success (sources: many compatible servers)": sse(*HELLO),
    "a reason without [DONE] (opencodex#1170)": sse(*ENDED, done=False),
    "retry frame first (openai-python#2722)": sse("retry: 3000\n\n", *ENDED),
    "ping events": sse("event: ping\n\n", *HELLO, "event: ping\ndata:\n\n", chunk({}, "stop")),
    "empty data (opencodex#1188)": sse("data:\n\n", "data: \n\n", *ENDED),
    "comments after an id (openai-go#227)": sse("id: 7\n\n", ": OPENROUTER PROCESSING\n\n", *ENDED, ": bye\n\n"),
    "no space after the colon": Raw("".join(f"data:{json.dumps(each)}\n\n" for each in ENDED) + "data:[DONE]\n\n", SSE),
    "CRLF": Raw("".join(f"data: {json.dumps(each)}\r\n\r\n" for each in ENDED) + "data: [DONE]\r\n\r\n", SSE),
    "a byte-order mark first": Raw(b"\xef\xbb\xbf" + str(sse(*ENDED).body).encode(), SSE),
    "the last event without a blank line (openai-node#2725)": Raw(str(sse(*ENDED, done=False).body).rstrip(), SSE),
    "labelled JSON (foundry-dev-tools#195)": Raw(sse(*ENDED).body, JSON),
    "labelled as bytes": Raw(sse(*ENDED).body, "application/octet-stream"),
    "labelled as text": Raw(sse(*ENDED).body, "text/plain"),
    "a whole answer instead": completion(),
    "a whole answer labelled as a stream": Raw(completion().body, SSE),
    "a whole answer with [DONE] behind it, labelled as a stream (9router#3492)": Raw(
        f"data: {completion().body}\n\ndata: [DONE]\n\n", SSE
    ),
    "Azure's first chunk without choices": sse({"choices": [], "prompt_filter_results": []}, *ENDED),
    "no finish_reason key until the end (LibreChat#5563)": sse(
        {"choices": [{"index": 0, "delta": {"content": "hello"}}]}, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    ),
    "empty and literal null reasons first (ollama#4357, sglang#3912)": sse(
        chunk({"content": "hel"}, ""), chunk({"content": "lo"}, "null"), chunk({}, "stop")
    ),
    "content in parts": sse(chunk({"content": [{"type": "text", "text": "hello"}]}), chunk({}, "stop")),
    "usage beside the choices": sse(*HELLO, {**chunk({}, "stop"), "usage": {"prompt_tokens": 10, "completion_tokens": 5}}),
    "usage inside the choice (earendil-works/pi#2017)": sse(
        *HELLO, chunk({}, "stop", usage={"prompt_tokens": 10, "completion_tokens": 5})
    ),
    "usage with nulls (bifrost#5425)": sse(*ENDED, {"choices": [], "usage": {"prompt_tokens": None, "completion_tokens": None}}),
    "null tool calls (sglang#3912)": sse(*HELLO, chunk({"tool_calls": None}), chunk({}, "stop")),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE_STREAMS)
def test_a_stream_is_read_however_it_is_framed(plan: Compile, serve: Serve, name: str) -> None:
    server = serve(WHOLE_STREAMS[name])
    assert outcome(ask(plan, server, stream=True)) == ("hello", None, "")
    assert len(server.asked) == 1


def test_a_stream_that_nobody_asked_for_is_read(plan: Compile, serve: Serve) -> None:
    """kaito#1880, new-api#5230"""
    assert outcome(ask(plan, serve(sse(*ENDED, USAGE)))) == ("hello", None, "")
    assert outcome(ask(plan, serve(Raw(sse(*ENDED, USAGE).body, JSON)))) == ("hello", None, "")
    assert outcome(ask(plan, serve(Raw(b"\xef\xbb\xbf\n" + str(completion().body).encode())))) == ("hello", None, "")


REASONS = [
    ("stop", None, False),
    ("STOP", None, False),
    ("eos", None, False),
    ("eos_token", None, False),
    ("end_turn", None, False),
    ("COMPLETE", None, False),
    ("model_length", None, True),
    ("length", None, True),
    ("MAX_TOKENS", None, True),
    ("error", ErrorKind.BAD_RESPONSE, False),
    ("abort", ErrorKind.BAD_RESPONSE, False),
    ("insufficient_system_resource", ErrorKind.BAD_RESPONSE, False),
    ("function_call_filter: MALFORMED_FUNCTION_CALL", ErrorKind.BAD_RESPONSE, False),
    ("content_filter", ErrorKind.REFUSED, False),
    ("content_filter: RECITATION", ErrorKind.REFUSED, False),
    ("sensitive", ErrorKind.REFUSED, False),
    ("flux_depleted", ErrorKind.BAD_RESPONSE, False),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("reason", "kind", "cut"), REASONS, ids=[reason for reason, *_ in REASONS])
def test_only_a_reason_that_means_success_makes_an_answer(
    plan: Compile, serve: Serve, reason: str, kind: ErrorKind | None, cut: bool, stream: bool
) -> None:
    server = serve(sse(*HELLO, chunk({}, reason)) if stream else completion(finish=reason))
    node = ask(plan, server, stream=stream).nodes["only"]
    assert (None if node.error is None else node.error.kind) is kind
    assert node.truncated is cut
    if reason == "flux_depleted":
        assert node.error is not None
        assert "`flux_depleted`" in node.error.message
        assert "finish_reasons: {flux_depleted: stop}" in node.error.message


def test_the_file_can_say_what_a_word_means(plan: Compile, serve: Serve) -> None:
    more = "finish_reasons: {flux_depleted: length, all_done: stop}"
    node = ask(plan, serve(completion(finish="flux_depleted")), more=more).nodes["only"]
    assert (node.output, node.truncated) == ("hello", True)
    node = ask(plan, serve(sse(*HELLO, chunk({}, "all_done"))), more=more, stream=True).nodes["only"]
    assert (node.output, node.truncated) == ("hello", False)


def test_a_body_without_a_reason_is_whole_and_a_stream_that_breaks_off_is_not(plan: Compile, serve: Serve) -> None:
    for finish in (None, "", "null"):
        assert outcome(ask(plan, serve(completion(finish=finish))))[:2] == ("hello", None)
    server = serve(sse(*HELLO, done=False), sse(*ENDED))
    output, kind, message = outcome(ask(plan, server, stream=True))
    assert (output, kind) == (None, ErrorKind.BAD_RESPONSE)
    assert "broke off" in message
    server = serve(sse(*HELLO, done=False), sse(*ENDED))
    assert outcome(ask(plan, server, stream=True, retry=1))[0] == "hello"


IN_STREAMS: list[tuple[str, Raw, ErrorKind, str]] = [
    (
        "OpenRouter, half a text before (local-operator#223)",
        sse(*HELLO, {"error": {"code": 502, "message": "Provider disconnected"}, **chunk({}, "error")}),
        ErrorKind.SERVER,
        "Provider disconnected",
    ),
    ("a choice's own error", sse(*HELLO, chunk({}, "error", error={"code": 429, "message": "slow down"})), ErrorKind.RATE_LIMIT, "slow down"),
    ("vLLM (guidellm#743)", sse({"error": {"message": "TimeoutError", "type": "GatewayTimeout", "code": 504}}), ErrorKind.TIMEOUT, "TimeoutError"),
    ("LiteLLM", sse(*HELLO, {"error": {"message": "Connection error.", "type": None, "code": "500"}}, done=False), ErrorKind.SERVER, "Connection error."),
    ("FastAPI", sse({"detail": "Internal failure in worker"}), ErrorKind.BAD_RESPONSE, "Internal failure in worker"),
    ("a list, as Gemini's", sse([{"error": {"code": 429, "message": "quota of the minute", "status": "RESOURCE_EXHAUSTED"}}]), ErrorKind.RATE_LIMIT, "quota of the minute"),
    ("a bare message", sse({"message": "the pod restarts", "code": 503}), ErrorKind.SERVER, "the pod restarts"),
    ("no JSON (Crane#121)", sse("data: error: out of memory\n\n"), ErrorKind.BAD_RESPONSE, "out of memory"),
    ("an event by name", sse('event: error\ndata: {"text": "x", "message": "gone"}\n\n'), ErrorKind.BAD_RESPONSE, "gone"),
    ("Bedrock's words", sse({"error": {"type": "throttlingException", "message": "Too many tokens, please wait before trying again."}}), ErrorKind.RATE_LIMIT, "please wait"),
    ("a native reason", sse(*HELLO, chunk({}, "stop", native_finish_reason="error")), ErrorKind.BAD_RESPONSE, "broke off"),
    ("nothing at all", sse(done=False), ErrorKind.BAD_RESPONSE, "broke off"),
    ("only [DONE]", sse(), ErrorKind.BAD_RESPONSE, "empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "raw", "kind", "words"), IN_STREAMS, ids=[name for name, *_ in IN_STREAMS])
def test_an_error_in_a_stream_is_told_in_the_servers_words(
    plan: Compile, serve: Serve, name: str, raw: Raw, kind: ErrorKind, words: str
) -> None:
    output, found, message = outcome(ask(plan, serve(raw), stream=True))
    assert (output, found) == (None, kind), message
    assert words in message


def error(body: Any, status: int = 400) -> Raw:
    return Raw(body if isinstance(body, str) else json.dumps(body), status=status)


BODIES: list[tuple[str, Raw, ErrorKind, str]] = [
    ("in a 200, by number", error({"error": {"code": 429, "message": "too fast"}}, 200), ErrorKind.RATE_LIMIT, "too fast"),
    ("in a 200, by digits", error({"error": {"code": "500", "message": "fell over"}}, 200), ErrorKind.SERVER, "fell over"),
    ("in a 200, llama.cpp's (textgen#7257)", error({"error": {"code": 400, "message": "request (6031 tokens) exceeds the available context size (2048 tokens)", "type": "exceed_context_size_error"}}, 200), ErrorKind.TOO_LONG, "6031 tokens"),
    ("in a 200, a choice's error", completion(finish="error", choices=[{"index": 0, "finish_reason": "error", "message": {"role": "assistant", "content": "half"}, "error": {"code": 502, "message": "upstream died"}}]), ErrorKind.SERVER, "upstream died"),
    ("in a 200, MiniMax's (obsidian-aloud-tts#114)", error({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, 200), ErrorKind.QUOTA, "insufficient balance"),
    ("a detail", error({"detail": "Unsupported parameter: X"}), ErrorKind.BAD_REQUEST, "Unsupported parameter: X"),
    ("details of FastAPI", error({"detail": [{"type": "missing", "loc": ["body", "messages"], "msg": "Field required"}]}, 422), ErrorKind.BAD_REQUEST, "body.messages: Field required"),
    ("Mistral's, a detail in a message", error({"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs are not permitted"}]}}, 422), ErrorKind.BAD_REQUEST, "body.x: Extra inputs"),
    ("Mistral's overload (continue#6185)", error({"object": "error", "message": "Service tier capacity exceeded for this model.", "type": "invalid_request_error"}, 503), ErrorKind.OVERLOADED, "capacity exceeded"),
    ("a list", error([{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}]), ErrorKind.AUTH, "API key not valid"),
    ("xAI's, an error that is a text", error({"code": "The caller does not have permission", "error": "Incorrect API key provided: sk"}), ErrorKind.AUTH, "Incorrect API key"),
    ("LM Studio's text", error({"error": "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens"}), ErrorKind.TOO_LONG, "4096 tokens"),
    ("Cerebras, bare", error({"message": "Requests per minute limit exceeded", "type": "too_many_requests_error", "param": "quota", "code": "request_quota_exceeded"}, 429), ErrorKind.RATE_LIMIT, "Requests per minute"),
    ("JSON in a message (continue#10560)", error({"error": {"message": json.dumps({"error": {"code": 503, "message": "The model is overloaded", "status": "UNAVAILABLE"}}), "code": 503}}, 503), ErrorKind.SERVER, "The model is overloaded"),
    ("OpenRouter's, the cause inside (oh-my-pi#3399)", error({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps({"error": {"message": "Invalid `signature` in `thinking` block"}}), "provider_name": "Anthropic"}}}), ErrorKind.BAD_REQUEST, "Invalid `signature`"),
    ("RFC 7807", error({"type": "urn:inference", "title": "Unprocessable", "status": 422, "detail": "top_k is out of range"}, 422), ErrorKind.BAD_REQUEST, "top_k is out of range"),
    ("Groq's failed tool use", error({"error": {"message": "Failed to call a function.", "type": "invalid_request_error", "code": "tool_use_failed", "failed_generation": "<f>"}}), ErrorKind.BAD_RESPONSE, "Failed to call"),
    ("larger than a minute allows (aider#1880)", error({"error": {"message": "Request too large for gpt-4o in organization o on tokens per min (TPM): Limit 30000, Requested 36278.", "type": "tokens", "code": "rate_limit_exceeded"}}, 429), ErrorKind.TOO_LONG, "Requested 36278"),
    ("a pace, in words of length", error({"error": {"message": "Tokens per minute limit exceeded - too many tokens processed", "type": "x"}}, 429), ErrorKind.RATE_LIMIT, "Tokens per minute"),
    ("Anthropic's credit in a 400", error({"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}}), ErrorKind.QUOTA, "credit balance"),
    ("HTML", Raw("<html>502 Bad Gateway</html>", "text/html", 502), ErrorKind.SERVER, "HTML page with status 502"),
    ("nothing", Raw("", "text/plain", 503), ErrorKind.SERVER, ""),
    ("plain text", Raw("upstream connect error", "text/plain", 503), ErrorKind.SERVER, "upstream connect error"),
]  # fmt: skip
TOO_LONG = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "request (6031 tokens) exceeds the available context size (2048 tokens), try increasing it",
    "litellm.ContextWindowExceededError: OpenAIException - it does not fit",
    "Input is too long for requested model.",
    "The number of tokens to keep from the initial prompt is greater than the context length.",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "This model's maximum prompt length is 131072 but the request contains 200000 tokens.",
    "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192",
    "Invalid request: Your request exceeded model token limit: 131072",
    "Range of input length should be [1, 30720]",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
    "Requested tokens (5000) exceed context window of 4096",
    "max_tokens must be at least 1, got -186.",
]


@pytest.mark.parametrize(("name", "raw", "kind", "words"), BODIES, ids=[name for name, *_ in BODIES])
def test_an_error_body_of_any_shape_is_told_in_the_servers_words(
    plan: Compile, serve: Serve, name: str, raw: Raw, kind: ErrorKind, words: str
) -> None:
    output, found, message = outcome(ask(plan, serve(raw)))
    assert (output, found) == (None, kind), message
    assert words in message


@pytest.mark.parametrize("words", TOO_LONG)
def test_a_prompt_that_does_not_fit_is_known_in_everybodys_words(plan: Compile, serve: Serve, words: str) -> None:
    server = serve(error({"error": {"message": words, "type": "BadRequestError"}}))
    assert outcome(ask(plan, server, retry=2))[1] is ErrorKind.TOO_LONG
    assert len(server.asked) == 1


def test_a_429_that_can_never_pass_is_not_retried(plan: Compile, serve: Serve) -> None:
    server = serve(BODIES[17][1])
    assert outcome(ask(plan, server, retry=3))[1] is ErrorKind.TOO_LONG
    assert len(server.asked) == 1


def test_two_answers_are_not_glued_into_one(plan: Compile, serve: Serve) -> None:
    two = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for index, text in enumerate(("one", "two"))
    ]
    seen: list[Event] = []
    assert outcome(ask(plan, serve(completion(choices=two)), seen=seen))[0] == "one"
    assert any("1 more answer" in event.message for event in seen if isinstance(event, NodeWarned))
    mixed = sse(
        {"choices": [{"index": 0, "delta": {"content": "o"}}]},
        {"choices": [{"index": 1, "delta": {"content": "tw"}}]},
        {
            "choices": [
                {"index": 0, "delta": {"content": "ne"}, "finish_reason": "stop"},
                {"index": 1, "delta": {"content": "o"}, "finish_reason": "stop"},
            ]
        },
    )
    assert outcome(ask(plan, serve(mixed), stream=True))[0] == "one"


def test_thinking_in_tags_is_kept_as_reasoning_and_is_no_part_of_the_answer(plan: Compile, serve: Serve) -> None:
    for text in (
        "<think>Hm.</think>\n\nhello",
        "Hm.\n</think>\n\nhello",
        "[THINK]Hm.[/THINK]hello",
        "◁think▷Hm.◁/think▷hello",
    ):
        node = ask(plan, serve(completion({"content": text}))).nodes["only"]
        assert (node.output, (node.reasoning or "").strip()) == ("hello", "Hm."), text
    for text in ("Use the <think> tag.", "a < b </think> is a tag", "```\n</think>\n```"):
        node = ask(plan, serve(completion({"content": text}))).nodes["only"]
        assert (node.output, node.reasoning) == (text, None)
    node = ask(plan, serve(completion({"content": "hello", "reasoning_content": "Hm."}))).nodes["only"]
    assert (node.output, node.reasoning) == ("hello", "Hm.")


def test_an_answer_that_is_nothing_but_thought_is_none(plan: Compile, serve: Serve) -> None:
    server = serve(completion({"content": "<think>Hm, hm."}), completion())
    assert outcome(ask(plan, server, retry=1))[0] == "hello"
    server = serve(completion({"content": "<think>Hm, hm."}, "length"), completion())
    output, kind, message = outcome(ask(plan, server, retry=1))
    assert (output, kind) == (None, ErrorKind.BAD_RESPONSE)
    assert "before any text came: raise `max_tokens`" in message
    assert len(server.asked) == 1


FIELDS = "output: {fields: {a: integer}}"


def test_a_typed_answer_that_was_cut_is_not_asked_for_again_at_the_same_limit(plan: Compile, serve: Serve) -> None:
    for raw, stream in (
        (completion({"content": '{"a": '}, "length"), False),
        (sse(chunk({"content": '{"a": '}), chunk({}, "length")), True),
    ):
        server = serve(raw)
        result = ask(plan, server, node=f"{FIELDS}, max_tokens: 40", retry=3, stream=stream)
        output, kind, message = outcome(result)
        assert (output, kind, len(server.asked)) == (None, ErrorKind.INVALID_OUTPUT, 1)
        assert "`max_tokens: 40`" in message
        node = result.nodes["only"]
        assert (node.truncated, node.partial) == (True, '{"a": ')
    server = serve(completion({"content": '{"a": '}, "length"), completion({"content": '{"a": 1}'}))
    result = ask(plan, server, node=f"{FIELDS}, max_tokens: 40, fallback: [{{model: p/other, max_tokens: 400}}]")
    assert result.outputs == {"only": {"a": 1}}


def test_a_text_that_was_cut_is_a_success_that_says_so(plan: Compile, serve: Serve) -> None:
    node = ask(plan, serve(completion(finish="length"))).nodes["only"]
    assert (node.status, node.output, node.truncated) == (Status.SUCCEEDED, "hello", True)


WRAPPED = [
    '<think>maybe {"a": 9}?</think>{"a": 1}',
    'thinking {"a": 9}\n</think>\n{"a": 1}',
    '```JSON\n{"a": 1}\n```',
    '~~~json\n{"a": 1}\n~~~',
    '```json {"a": 1}```',
    'Sure! Here it is:\n\n{"a": 1}\n\nAnything else {smile}?',
    '\ufeff{"a": 1}',
    '"{\\"a\\": 1}"',
    'First I considered ```{"b": 2}```, then ```{"a": 1}```.',
    'See [1]: {"a": 1} and once more {"a": 1}',
    '<|channel|>analysis<|message|>{"a": 5}<|end|><|start|>assistant<|channel|>final<|message|>{"a": 1}',
]


@pytest.mark.parametrize("text", WRAPPED)
def test_a_typed_answer_is_found_where_models_put_it(plan: Compile, serve: Serve, text: str) -> None:
    server = serve(completion({"content": text}))
    assert ask(plan, server, node=FIELDS).outputs == {"only": {"a": 1}}
    assert len(server.asked) == 1


AMBIGUOUS = [
    '{"a": 1} or {"a": 2}',
    '{"a": 1',
    '{"x": [{"a": 1}, {"a": 2',
    '<think>{"a": 1}',
    "no JSON here",
    '{"a": NaN}',
]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_what_is_ambiguous_or_broken_goes_back_once_with_the_schema(plan: Compile, serve: Serve, text: str) -> None:
    server = serve(completion({"content": text}), completion({"content": '{"a": 3}'}))
    assert ask(plan, server, node=FIELDS).outputs == {"only": {"a": 3}}
    told = server.asked[1].body["messages"][-1]["content"]
    assert '"a": {"type": "integer"}' in told


PARAMETERS: list[tuple[str, Raw, str, bool, dict[str, Any], str]] = [
    ("max_tokens (OpenAI)", refusal("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", code="unsupported_parameter", param="max_tokens"), "max_tokens: 40", False, {"max_completion_tokens": 40}, "max_tokens_field: max_completion_tokens"),
    ("stream_options (vLLM)", error({"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted'}]", "type": "BadRequestError", "code": 400}), "", True, {"stream_options": None}, "omit: [stream_options]"),
    ("stream_options (Fireworks)", refusal("Extra inputs are not permitted, field: 'stream_options'"), "", True, {"stream_options": None}, "omit: [stream_options]"),
    ("stream_options (Azure AI)", error({"detail": "Extra parameters ['stream_options'] are not allowed when extra-parameters is not set"}, 422), "", True, {"stream_options": None}, "omit: [stream_options]"),
    ("response_format (DeepSeek)", refusal("This response_format type is unavailable now"), FIELDS, False, {"response_format": {"type": "json_object"}}, "structured: json_object"),
    ("json_schema (older DeepSeek)", error({"error": {"message": "Failed to deserialize the JSON body into the target type: response_format: response_format.type `json_schema` is unavailable now", "type": "invalid_request_error"}}, 422), FIELDS, False, {"response_format": {"type": "json_object"}}, "structured: json_object"),
    ("a schema that strict mode refuses", refusal("Invalid schema for response_format 'answer': In context=(), 'maximum' is not permitted."), FIELDS, False, {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}}}, "omit: [strict]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "no", "node", "stream", "then", "line"), PARAMETERS, ids=[name for name, *_ in PARAMETERS]
)
def test_a_parameter_that_agentdag_chose_is_put_right_once(
    plan: Compile, serve: Serve, name: str, no: Raw, node: str, stream: bool, then: dict[str, Any], line: str
) -> None:
    text = json.dumps({"a": 1})
    server = serve(no, sse(chunk({"content": text}), chunk({}, "stop")) if stream else completion({"content": text}))
    seen: list[Event] = []
    result = ask(plan, server, node=node, stream=stream, seen=seen)
    assert result.ok, result.nodes["only"].error
    assert result.nodes["only"].attempts == 1
    assert len(server.asked) == 2
    assert {key: server.asked[1].body.get(key) for key in then} == then
    warnings = [event for event in seen if isinstance(event, NodeWarned)]
    assert len(warnings) == 1
    assert line in (warnings[0].hint or "")


def test_what_no_form_helps_fails_with_the_first_refusal(plan: Compile, serve: Serve) -> None:
    server = serve(refusal("Unknown parameter: 'max_tokens'."), refusal("Unknown parameter: 'max_completion_tokens'."))
    output, kind, message = outcome(ask(plan, server, node="max_tokens: 40", retry=2))
    assert (output, kind, len(server.asked)) == (None, ErrorKind.BAD_REQUEST, 2)
    assert "'max_tokens'" in message


def test_a_value_that_is_refused_is_the_files_own_affair(plan: Compile, serve: Serve) -> None:
    no = refusal(
        "max_tokens is too large: 99999. This model supports at most 16384 completion tokens.", param="max_tokens"
    )
    server = serve(no)
    output, kind, message = outcome(ask(plan, server, node="max_tokens: 99999"))
    assert (output, kind, len(server.asked)) == (None, ErrorKind.BAD_REQUEST, 1)
    assert f"(at {server.url}/v1/chat/completions)" in message


def test_explicit_settings_are_sent_as_they_are(plan: Compile, serve: Serve) -> None:
    server = serve(refusal("Unsupported parameter: 'max_tokens' is not supported."))
    output, kind, message = outcome(ask(plan, server, node="max_tokens: 40", more="max_tokens_field: max_tokens"))
    assert (output, kind, len(server.asked)) == (None, ErrorKind.BAD_REQUEST, 1)
    assert "`max_tokens`" in message
    server = serve(refusal("Unknown parameter: 'stream_options'."), sse(*ENDED))
    assert outcome(ask(plan, server, more="omit: [stream_options]", stream=True))[1] is ErrorKind.BAD_REQUEST


ADDRESSES = [
    ("openai", "", "/v1"),
    ("openai", "/v1/chat/completions", "/v1"),
    ("anthropic", "/v1", ""),
    ("anthropic", "/v1/messages", ""),
]


@pytest.mark.parametrize(("kind", "path", "better"), ADDRESSES)
@pytest.mark.parametrize(
    "no",
    [
        Raw('{"detail": "Not Found"}', status=404),
        Raw("<html>Not Found</html>", "text/html", 404),
        Raw("", "text/plain", 405),
    ],
)
def test_a_wrong_address_is_told_with_the_right_one(
    plan: Compile, serve: Serve, kind: str, path: str, better: str, no: Raw
) -> None:
    server = serve(no)
    text = f"""
        providers: {{p: {{type: {kind}, base_url: "{server.url}{path}", api_key: sk-bytes-1}}}}
        nodes: {{only: {{model: p/m, prompt: hi, retry: 0}}}}
    """
    error = agentdag.run(plan(text)).nodes["only"].error
    assert error is not None
    assert f"`base_url: {server.url}{better}`" in error.message
    assert server.asked[0].path in error.message


def test_a_model_that_is_not_there_is_no_wrong_address(plan: Compile, serve: Serve) -> None:
    message = outcome(ask(plan, serve(refusal("The model `m` does not exist", 404, code="model_not_found")), path=""))[
        2
    ]
    assert "base_url" not in message


def test_what_was_put_right_is_said_on_the_terminal_and_in_show(serve: Serve, tmp_path: Path) -> None:
    server = serve(refusal("Unknown parameter: 'stream_options'."), sse(*ENDED))
    (tmp_path / "p.yaml").write_text(
        f'providers: {{p: {{type: openai, base_url: "{server.url}/v1"}}}}\nnodes: {{a: {{model: p/m, prompt: hi}}}}\n'
    )
    done = program("run", "p.yaml", "--store", "s", "--format", "plain", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == "hello\n"
    assert "warning p/m does not accept `stream_options`, and is asked without it" in done.stderr
    line = "providers: {p: {omit: [stream_options]}}"
    assert line in done.stderr
    shown = program("show", "last", "a", "--store", "s", cwd=tmp_path).stdout
    assert "warning: p/m does not accept `stream_options`" in shown
    assert line in shown
    told = json.loads(program("show", "last", "a", "--store", "s", "--format", "json", cwd=tmp_path).stdout)
    assert told["requests"][0]["warnings"][0]["hint"].endswith(f"`{line}`")


def test_whether_an_answer_is_streamed_does_not_go_by_who_looks(serve: Serve, tmp_path: Path) -> None:
    server = serve(sse(*ENDED))
    (tmp_path / "p.yaml").write_text(
        f'providers: {{p: {{type: openai, base_url: "{server.url}/v1"}}}}\nnodes: {{a: {{model: p/m, prompt: hi}}}}\n'
    )
    for form in ("auto", "table", "plain", "json"):
        assert program("run", "p.yaml", "--no-store", "--format", form, cwd=tmp_path).returncode == 0
    assert program("run", "p.yaml", "--no-store", "--quiet", cwd=tmp_path).returncode == 0
    assert [asked.body.get("stream") for asked in server.asked] == [True] * 5


def test_white_space_is_no_answer(plan: Compile, serve: Serve) -> None:
    server = serve(completion({"content": "\n \n", "reasoning_content": "Hm."}), completion())
    assert outcome(ask(plan, server, retry=1))[0] == "hello"
    assert len(server.asked) == 2


def test_letters_that_grow_in_lower_case_garble_nothing(plan: Compile, serve: Serve) -> None:
    node = ask(plan, serve(completion({"content": "<think>İİİİİİ</Think>\nİstanbul"}))).nodes["only"]
    assert (node.output, node.reasoning) == ("İstanbul", "İİİİİİ")


ODD_SHAPES = [
    {"choices": [{"index": [1], "message": {"role": "assistant", "content": {"a": 1}}, "finish_reason": ["stop"]}]},
    {"choices": [{"message": {"content": 7, "tool_calls": 5, "reasoning_details": [1]}, "finish_reason": "stop"}]},
    {"choices": "none"},
    {"choices": [7]},
]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize(
    "body", [*ODD_SHAPES, {"content": [{"type": "thinking", "thinking": ["a"]}], "stop_reason": "end_turn"}]
)
def test_an_answer_of_an_odd_shape_is_a_bad_response(plan: Compile, serve: Serve, body: Any, kind: str) -> None:
    for stream in (False, True):
        error = ask(plan, serve(Raw(json.dumps(body))), kind=kind, stream=stream).nodes["only"].error
        assert error is not None
        assert error.kind is ErrorKind.BAD_RESPONSE, error
        events = sse(body, {"type": "content_block_delta", "index": None, "delta": {"type": "text_delta", "text": "x"}})
        error = ask(plan, serve(events), kind=kind, stream=stream).nodes["only"].error
        assert error is None or error.kind in {ErrorKind.BAD_RESPONSE, ErrorKind.INTERNAL}


def test_what_an_empty_answer_took_is_booked_as_it_was_counted(plan: Compile, serve: Serve) -> None:
    server = serve(completion({"content": ""}), completion({"content": "<think>Hm."}), completion())
    prices = "prices: {input: 1, output: 1}"
    node = ask(plan, server, retry=2, more=prices, top="budget: {tokens: 10000}").nodes["only"]
    assert node.output == "hello", node.error
    assert (node.usage.input_tokens, node.usage.output_tokens, node.usage.estimated) == (30, 15, False)
    assert node.charged is not None
    assert node.charged.tokens == 45


RANGES = [
    "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
    "Range of max_tokens should be [1, 8192]",
    "max_tokens must be an integer between 1 and 8192",
]


@pytest.mark.parametrize("words", RANGES)
def test_a_value_out_of_range_is_not_sent_under_another_name(plan: Compile, serve: Serve, words: str) -> None:
    server = serve(refusal(words), completion())
    assert outcome(ask(plan, server, node="max_tokens: 99999"))[1] is ErrorKind.BAD_REQUEST
    assert len(server.asked) == 1


def test_what_the_file_says_in_params_is_not_asked_for_again_and_again(plan: Compile, serve: Serve) -> None:
    server = serve(refusal("Unsupported parameter: 'response_format'", param="response_format"))
    node = f"{FIELDS}, params: {{response_format: {{type: text}}}}"
    assert outcome(ask(plan, server, node=node))[1] is ErrorKind.BAD_REQUEST
    assert len(server.asked) == 1


def test_a_refusal_of_something_else_changes_nothing_that_agentdag_chose(plan: Compile, serve: Serve) -> None:
    words = "Unsupported parameter: 'temperature' is not supported with this model; see our text and schema guide"
    server = serve(refusal(words, param="temperature"))
    assert outcome(ask(plan, server, node=f"{FIELDS}, temperature: 0.5"))[1] is ErrorKind.BAD_REQUEST
    assert len(server.asked) == 1


def test_thinking_has_room_within_a_budget(plan: Compile, serve: Serve) -> None:
    message = {
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    server = serve(Raw(json.dumps(message)))
    assert ask(plan, server, kind="anthropic", node="thinking: 8000", top="budget: {tokens: 100000}").ok
    assert server.asked[0].body["max_tokens"] > 8000


@pytest.mark.parametrize(("halves", "whole"), [(("a\ud83d", "\ude00b"), "a😀b"), (("a\ud83d", "b"), "a\ufffdb")])
def test_a_character_that_came_in_two_halves_is_one(
    plan: Compile, serve: Serve, halves: tuple[str, str], whole: str
) -> None:
    server = serve(sse(*(chunk({"content": half}) for half in halves), chunk({}, "stop")))
    assert outcome(ask(plan, server, stream=True))[0] == whole


def test_the_query_of_an_address_stands_behind_the_path(plan: Compile, serve: Serve) -> None:
    server = serve(completion())
    assert ask(plan, server, path="/v1?api-version=7").ok
    assert server.asked[0].path == "/v1/chat/completions?api-version=7"


def test_where_there_is_no_connection_it_is_said_to_where_and_why(plan: Compile, serve: Serve) -> None:
    server = serve(completion())
    server.stop()
    _, kind, message = outcome(ask(plan, server))
    assert kind is ErrorKind.CONNECTION
    assert message.startswith(f"cannot connect to {server.url.removeprefix('http://')}: connection refused")


def test_each_parameter_that_a_model_refuses_is_told_once() -> None:
    said = {"temperature": 0.2, "top_p": 0.5, "params.temperature": 0.2}
    assert [name for name, _ in refused("openai", "o3", "chat", said)] == ["temperature", "params.temperature", "top_p"]
    told = [name for name, _ in refused("anthropic", "claude-opus-4-7", None, {"temperature": 0.2, "thinking": 2000})]
    assert told.count("temperature") == 1
