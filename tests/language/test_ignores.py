"""Comments that silence warnings, and those that silence nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentdag.plan.compile import compile_text
from agentdag.providers import prices
from agentdag.providers.registry import provider_types

UNUSED = "nodes:\n  a: {prompt: hi, model: openai/gpt-5-mini}\ninputs:\n"


def codes_of(text: str, tmp_path: Path) -> list[tuple[str, int]]:
    found = compile_text(text, tmp_path / "p.yaml", provider_types=provider_types(), lint=prices).findings
    return [(finding.code, finding.span.line) for finding in found]


@pytest.mark.parametrize(
    "text",
    [
        UNUSED + "  i: {default: x}  # agentdag: ignore[AD604]\n",
        UNUSED + "  i: {default: x}  # unused so far; # agentdag: ignore[AD604]\n",
        UNUSED + "  # agentdag: ignore[AD604]\n  i: {default: x}\n",
        UNUSED + "  i: {default: x}  #agentdag:ignore[ AD604 ]\n",
        UNUSED + "  i:   # agentdag: ignore[AD604]\n    default: x\n",
    ],
)
def test_a_comment_silences_the_warning_of_its_line(text: str, tmp_path: Path) -> None:
    assert codes_of(text, tmp_path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (UNUSED + "  i: {default: x}\n  # agentdag: ignore[AD604]\n", [("AD604", 4), ("AD610", 5)]),
        (UNUSED + "  i: {default: x}  # agentdag: ignore[AD603]\n", [("AD604", 4), ("AD610", 4)]),
        (UNUSED + "  i: {default: '# agentdag: ignore[AD604]'}\n", [("AD604", 4)]),
        (UNUSED + "  i:\n    default: |\n      # agentdag: ignore[AD604]\n", [("AD604", 4)]),
        (UNUSED + "  i:\n    default: a#agentdag:ignore[AD604]\n", [("AD604", 4)]),
        (UNUSED + "  i: {default: x}  # agentdag: ignore[AD604, AD605]\n", [("AD610", 4)]),
    ],
)  # fmt: skip
def test_what_silences_nothing_is_told(text: str, expected: list[tuple[str, int]], tmp_path: Path) -> None:
    assert codes_of(text, tmp_path) == expected


def test_errors_are_never_silenced_and_then_nothing_is_said_of_the_comment(tmp_path: Path) -> None:
    text = "nodes:\n  a: {promt: hi, model: openai/gpt-5-mini}  # agentdag: ignore[AD201]\n"
    assert codes_of(text, tmp_path) == [("AD201", 2)]
