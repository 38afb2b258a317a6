"""What models think aloud in their answers, told apart from what they answer.

Reasoning models put it into tags at the beginning, where their server does not take it out. A tag further down is the
answer's own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MAY_THINK = re.compile(r"\s*(?:<|\[THINK|◁)", re.IGNORECASE)
"""How an answer begins that may hold any."""
_OPENED = re.compile(r"\s*(?:<(think|seed:think)>|(\[THINK\])|(◁think▷))", re.IGNORECASE)
_CLOSED_ALONE = re.compile(r"(?:^|\n)[ \t]*</think>[ \t]*(?:\n|$)", re.IGNORECASE)
"""Where the chat template has opened the tag, only its end is in the answer, on a line of its own."""
_FINAL = re.compile(r"<\|channel\|>final<\|message\|>")
_HARMONY = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>(analysis|commentary|final)<\|message\|>")
_MARKER = re.compile(r"<\|(?:end|return|start|channel|message|call)\|>(?:assistant)?(?:analysis|commentary|final)?")


class Answered(NamedTuple):
    """An answer, and what was thought before it."""

    text: str
    reasoning: str | None


def answered(text: str, reasoning: str | None = None) -> Answered:
    """The answer in *text* without the thinking that stands before it in tags, which joins *reasoning*."""
    if not (_MAY_THINK.match(text) or "</think>" in text):
        return Answered(text, reasoning or None)
    thought, rest = _split(text)
    if thought is None:
        return Answered(text, reasoning or None)
    parts = [each.strip() for each in (reasoning, thought) if each and each.strip()]
    return Answered(rest, "\n\n".join(parts) or None)


def _split(text: str) -> tuple[str | None, str]:
    """What is thought in *text*, and what is left; None where nothing is."""
    if _HARMONY.match(text):
        final = list(_FINAL.finditer(text))
        if not final:
            return _MARKER.sub("\n", text).strip(), ""
        rest = text[final[-1].end() :]
        ended = _MARKER.search(rest)
        return _MARKER.sub("\n", text[: final[-1].start()]).strip(), rest if ended is None else rest[: ended.start()]
    opened = _OPENED.match(text)
    if opened is None:
        closed = _CLOSED_ALONE.search(text)
        if closed is None or "<think" in text[: closed.start()].lower() or "```" in text[: closed.start()]:
            return None, text
        return text[: closed.start()], text[closed.end() :].lstrip("\n")
    end = "[/THINK]" if opened[2] else "◁/think▷" if opened[3] else f"</{opened[1].lower()}>"
    closed = re.compile(re.escape(end), re.IGNORECASE).search(text, opened.end())
    if closed is None:
        return text[opened.end() :], ""
    return text[opened.end() : closed.start()], text[closed.end() :].lstrip()
