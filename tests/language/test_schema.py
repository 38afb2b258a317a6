"""The JSON Schema for editors: draft 7, a description and an example for every key, and true to the language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from agentdag.errors import SpecError
from agentdag.language.document import parse_document
from agentdag.language.schema import json_schema
from agentdag.language.spec import KINDS, OWN_KEYS
from agentdag.plan.compile import compile_text
from agentdag.providers.registry import provider_types

TESTS = Path(__file__).parent.parent
SCHEMA = json_schema()
VALIDATOR = Draft7Validator(SCHEMA)
GOOD = [
    *(TESTS / "corpus" / "good").glob("*.yaml"),
    *(TESTS.parent / "pipelines").glob("*.yaml"),
    *(TESTS.parent / "agentdag" / "cli" / "starter").glob("*.yaml"),
]
BROKEN = sorted((TESTS / "corpus" / "broken").glob("*.yaml"))
KNOWS_ONLY_THE_WHOLE = re.compile(
    r"no provider type|does not say its type|has no model|is not declared|default of|is not of type|"
    r"finite number|this prompt is empty|is reserved|is missing|means nothing for a provider|models know no|is no address|the id|that `wait_for` waits for|does not stream|only models stream|has nothing to ask|"
    r"takes this line apart|no user and no password|no type of a field|do not go together in one text|sends nothing|"
    r"means nothing for the text|is a number, not the text|is no regular expression|"
    r"a value is due|as something else|and a progressive barrier exclude|means nothing for a node that runs a pipeline|`cache` and `repeat` exclude"
)
"""Refusals that need more than the place of a key: a schema cannot tell."""


def properties(part: Any = SCHEMA, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        for name, value in part.get("properties", {}).items() if isinstance(part.get("properties"), dict) else ():
            yield f"{path}/{name}", value
        for name, value in part.items():
            yield from properties(value, f"{path}/{name}")
    elif isinstance(part, list):
        for each in part:
            yield from properties(each, path)


AGENT_KEYS = {"tools", "max_turns", "tool_timeout", "tool_output_limit"}


def test_it_is_draft_7() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    text = str(SCHEMA)
    assert "$defs" not in text
    assert "prefixItems" not in text


@pytest.mark.parametrize(("path", "told"), list(properties()), ids=[path for path, _ in properties()])
def test_every_key_has_a_description_and_an_example_that_fits(path: str, told: dict[str, Any]) -> None:
    assert len(told["description"]) > 10
    assert told["examples"]
    for example in told["examples"]:
        Draft7Validator({**told, "definitions": SCHEMA["definitions"]}).validate(example)


@pytest.mark.parametrize("file", GOOD, ids=[file.stem for file in GOOD])
def test_it_accepts_every_good_pipeline(file: Path) -> None:
    value = parse_document(file.read_text(encoding="utf-8"), file.name)[0].value
    assert [error.message for error in VALIDATOR.iter_errors(value)] == []


def structural() -> list[Path]:
    """The broken pipelines whose mistake is one of keys and types."""
    own = (file for file in BROKEN if "inner-pipeline" not in file.stem)
    return [file for file in own if re.search(r"\[AD20[1-4]\]", file.with_suffix(".txt").read_text("utf-8"))]


@pytest.mark.parametrize("file", structural(), ids=[file.stem for file in structural()])
def test_it_refuses_what_the_language_refuses(file: Path) -> None:
    try:
        value = parse_document(file.read_text(encoding="utf-8"), file.name)[0].value
    except SpecError:
        return  # not even YAML
    told = file.with_suffix(".txt").read_text("utf-8")
    wrong = [line for line in told.splitlines() if re.search(r"error\[AD20[1-4]\]", line)]
    if all(KNOWS_ONLY_THE_WHOLE.search(line) for line in wrong):
        return
    assert list(VALIDATOR.iter_errors(value)), told


def test_it_refuses_what_is_known_of_how_keys_go_together() -> None:
    def refused(node: dict[str, Any]) -> bool:
        return bool(list(VALIDATOR.iter_errors({"nodes": {"a": node}})))

    assert not refused({"prompt": "hi"})
    assert not refused({"call": "a:b", "with": {"x": 1}})
    assert refused({"prompt": "hi", "call": "a:b"})
    assert refused({"prompt": "hi", "with": {"x": 1}})
    assert refused({"call": "a:b", "temperature": 1})
    assert refused({"prompt": "hi", "tier": "t", "model": "p/m"})
    assert refused({"needs": []})
    assert not refused({"prompt": "hi", "x-note": 1})
    assert not refused({"prompt": "hi", "max_tokens": "4_000"})


def test_the_examples_are_what_the_language_takes() -> None:
    keys = {
        name: told["examples"][0]
        for name, told in SCHEMA["definitions"]["NodeSpec"]["properties"].items()
        if name
        not in {
            "model",
            "needs",
            "seed",
            "thinking",  # of Anthropic's models
            "stop",
            "when",
            "foreach",
            "cache",
            *KINDS,
            *AGENT_KEYS,
            "with",
            *OWN_KEYS["command"],
        }
    }
    needs = {f"n{number}": {"prompt": "hi", "model": "openai/gpt-5"} for number in range(8)}
    node = {**keys, "prompt": "hi", "needs": [*needs]}
    text = str({"tiers": {"reasoning": "openai/gpt-5"}, "nodes": {**needs, "a": node}}).replace("True", "true")
    found = compile_text(text, Path("p.yaml"), provider_types=provider_types()).findings
    assert found == ()
