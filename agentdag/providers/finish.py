"""Why a model stopped: the words of all servers, and what each means.

A word that stands in no table is never a success.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class Finish(Enum):
    """What a server says with the reason for which an answer ended."""

    WHOLE = "the answer is whole"
    CUT = "the answer was cut at its token limit"
    REFUSED = "a filter or the model itself refused"
    BROKEN = "the server failed before the answer was whole"


_WORDS: Mapping[Finish, str] = {
    Finish.WHOLE: """
        stop eos eos_token end_turn stop_sequence complete completed finish finished done stopped normal
        tool_calls tool_call tool_use function_call
    """,
    Finish.CUT: """
        length max_tokens max_token max_length max_output_tokens model_length token_limit
        model_context_window_exceeded context_length_exceeded incomplete
    """,
    Finish.REFUSED: """
        content_filter content_filtered refusal guardrail_intervened sensitive safety recitation blocklist
        prohibited_content spii image_safety image_prohibited_content image_recitation language error_toxic
        model_armor escalation
    """,
    Finish.BROKEN: """
        error abort aborted cancelled canceled rejected failed timeout network_error insufficient_system_resource
        function_call_filter malformed_function_call malformed_response malformed_tool_use malformed_model_output
        unexpected_tool_call too_many_tool_calls missing_thought_signature error_limit user_cancel
        repetition_truncation
    """,
}
"""The words, from the references of OpenAI (stop, tool_calls, function_call, length, content_filter), Anthropic
(end_turn, stop_sequence, tool_use, max_tokens, refusal, model_context_window_exceeded) and Gemini (SAFETY, RECITATION,
MALFORMED_FUNCTION_CALL and the like, alone or behind `content_filter: `), and from the sources of servers and gateways:
eos_token of text-generation-inference, eos of Together, tool_call and model_length of Mistral (client-python#62, #123),
COMPLETE and ERROR_TOXIC of Cohere, sensitive and network_error of Zhipu, insufficient_system_resource of DeepSeek,
abort of vLLM (vllm#57082) and SGLang (sglang#22535), guardrail_intervened and malformed_tool_use of Bedrock
(pydantic-ai#5640), error of OpenRouter (pydantic-ai#2844), repetition_truncation of MiMo."""
_MEANINGS = {word: finish for finish, words in _WORDS.items() for word in words.split()}
_USUAL = ("stop", "end_turn", "tool_calls", "tool_use")
"""Most answers end with one of these."""
CALLS = frozenset({"tool_calls", "tool_call", "tool_use", "function_call"})
"""Those that announce calls of tools."""
_NO_REASON_YET = frozenset({"", "null", "none", "unspecified", "finish_reason_unspecified"})


def reason_in(told: Any) -> str | None:
    """The reason that a server gives with *told*; None where it says that there is none yet."""
    if told in _USUAL:
        return str(told)
    return told if isinstance(told, str) and told.strip().lower() not in _NO_REASON_YET else None


def meaning_of(reason: str, own: Mapping[str, str]) -> Finish | None:
    """What *reason* means, by the provider's *own* words (each `stop` or `length`) first; None where nobody knows."""
    if reason in _USUAL and not own:
        return Finish.WHOLE
    said = own.get(reason)
    if said is not None:
        return Finish.CUT if said == "length" else Finish.WHOLE
    return _MEANINGS.get(reason.strip().lower().partition(": ")[0])
