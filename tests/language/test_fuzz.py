"""20,000 documents, random and mutated: never a traceback, never over a second, always a place."""

from __future__ import annotations

import re
import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdag.language.findings import to_text
from agentdag.language.reports import to_github, to_junit, to_sarif
from agentdag.plan.compile import Compiled, compile_text
from agentdag.providers import prices
from agentdag.providers.registry import provider_types

ROOT = Path(__file__).parent.parent.parent
SEEDS = [
    file.read_text(encoding="utf-8")
    for folder in ("pipelines", "tests/corpus/good", "tests/corpus/broken")
    for file in sorted((ROOT / folder).glob("*.yaml"))
]
TYPES = provider_types()
WORDS = [
    "{{ nodes.a.output }}", "{% if nodes.a.ok %}", "{% endif %}", "{% for n in needs %}", "{{", "}}", "- ", ": ", "\n", "  ",
    "&a ", "*a", "<<: *a", "!!str ", "|", ">-", "'", '"', "[", "]", "{", "}", "#", "# agentdag: ignore[AD501]", "\t", "\u2028",
    "needs: [a]", "expect: {latency: 5s}", "timeout: 1s", "continue_on_failure: true", "model: openai/gpt-5-mini", "null",
    "0x1F", "1e999", "-0", "007", ".nan", "\U0001f600", "\x00", "\ud800", "sk-proj-4fT9qLw2Zx8Rk1Vb6Nc3Ym7D", "a" * 300, "%s" * 20,
]  # fmt: skip


SECRET = re.compile(r"(?<![A-Za-z0-9_-])sk-proj-4fT9qLw2Zx8Rk1Vb6Nc3Ym7D")
"""Not behind letters: `ask-...` is a word."""


def check(text: str, slowest: list[float]) -> Compiled:
    began = time.process_time()
    compiled = compile_text(text, ROOT / "pipelines" / "p.yaml", provider_types=TYPES, lint=prices)
    shown = to_text(compiled.findings)
    slowest[0] = max(slowest[0], time.process_time() - began)
    assert compiled.plan is not None or any(finding.severity == "error" for finding in compiled.findings)
    lines = text.count("\n") + text.count("\r") + text.count("\u2028") + text.count("\u2029") + text.count("\x85") + 1
    for finding in compiled.findings:
        span = finding.span
        assert 1 <= span.line <= span.end_line, finding
        assert span.line <= lines or not span.file.endswith("p.yaml"), finding
        assert span.column >= 1, finding
        assert finding.message, finding
    assert "\x1b" not in shown
    assert not SECRET.search(shown)
    return compiled


def mutated(chance: Random) -> str:
    """A sample or two, cut, doubled, and sprinkled with what means something."""
    text = chance.choice(SEEDS)
    for _ in range(chance.randint(1, 6)):
        at, to = sorted((chance.randint(0, len(text)), chance.randint(0, len(text))))
        match chance.randrange(7):
            case 0:
                text = text[:at] + text[to:] if to - at < 200 else text[:at] + text[at + 1 :]
            case 1:
                text = text[:at] + chance.choice(WORDS) + text[at:]
            case 2:
                text = text[:to] + text[at : min(to, at + 200)] + text[to:]
            case 3:
                lines = text.split("\n")
                chance.shuffle(lines) if chance.random() < 0.1 else lines.pop(chance.randrange(len(lines)))
                text = "\n".join(lines)
            case 4:
                other = chance.choice(SEEDS)
                text = text[:at] + other[chance.randint(0, len(other)) :][:300] + text[at:]
            case 5:
                text = (
                    text[:at] + chr(chance.choice([chance.randrange(128), chance.randrange(0x3000)])) + text[at + 1 :]
                )
            case 6:
                words = text.split(" ")
                words[chance.randrange(len(words))] = chance.choice(WORDS)
                text = " ".join(words)
    return text


@pytest.mark.parametrize("seed", range(16))
def test_mutations_of_the_samples(seed: int) -> None:
    chance, slowest = Random(seed), [0.0]
    for _ in range(1150):
        check(mutated(chance), slowest)
    assert slowest[0] < 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["nodes", "prompt", "needs", "defaults", "model", "a", "with", "call", "inputs"]),
        inner,
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=1600)
@given(VALUES)
def test_documents_of_any_shape(value: object) -> None:
    import yaml

    check(yaml.safe_dump({"nodes": value, "defaults": {"model": "openai/gpt-5-mini"}}, allow_unicode=True), [0.0])


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.text(max_size=60) | st.sampled_from(WORDS), min_size=1)
)
def test_any_text_as_a_prompt_in_every_format(prompts: dict[str, str]) -> None:
    import yaml

    nodes = {name: {"prompt": text, "model": "openai/gpt-5-mini"} for name, text in prompts.items()}
    found = check(yaml.safe_dump({"nodes": nodes}, allow_unicode=True), [0.0]).findings
    assert to_sarif(found)
    assert to_github(found) or not found
    assert to_junit(found, ["p.yaml"], strict=True)
