"""What each provider is sent for a schema, against the published rules, over random schemas and pydantic models."""

from __future__ import annotations

import json
from random import Random
from typing import Any, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, create_model
from strict_openai import strict_problem

from agentdag.language.answers import schema_of
from agentdag.providers.invented import invented
from agentdag.providers.schemas import WRAPPED, as_object, for_tool, is_wrapped, rooted, strict, untyped_unions

NAMES = st.sampled_from(["a", "b", "enum", "$defs", "properties", "type", "items", "größe"])
NOTES = st.fixed_dictionaries({}, optional={"description": st.just("what it is"), "title": st.just("T")})
WORDS = st.sampled_from(["low", "mid", "high"])


def leaf() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(
            lambda kind, more: {"type": kind, **more},
            st.sampled_from(["string", "integer", "number", "boolean"]),
            NOTES,
        ),
        st.just({"type": ["string", "null"]}),
        st.just({"enum": ["a", "b"]}),
        st.just({"enum": ["a", None]}),
        st.just({"type": "string", "enum": ["a", "b"]}),
        st.just({"const": 3}),
        st.just({"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a"}),
        st.just({"type": "string", "format": "uri"}),
        st.just({"type": "integer", "minimum": 0, "exclusiveMaximum": 9}),
        st.just({"$ref": "#/$defs/Shared"}),
        st.just({"$ref": "#/$defs/Shared", "description": "beside a reference"}),
        st.just({"type": "array"}),
        st.just({"type": "object"}),
        st.just({}),
        st.just({"type": "object", "additionalProperties": {"type": "string"}}),
    )


def branch(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def an_object(properties: dict[str, Any], some: list[str], closed: bool, nested: bool) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "object", "properties": properties}
        made["required"] = [name for name in properties if name in some or not some]
        if closed:
            made["additionalProperties"] = False
        if nested:
            made["$defs"] = {"Own": {"type": "integer"}}
            made["properties"] = {**properties, "own": {"$ref": "#/OWN"}}
            made["required"] = [*made["required"], "own"]
        return made

    return st.one_of(
        st.builds(an_object, st.dictionaries(NAMES, inner, min_size=1, max_size=3), st.lists(NAMES, max_size=3), st.booleans(), st.booleans()),
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda some: {"oneOf": some}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda one: {"allOf": [one], "description": "d"}, inner),
    )  # fmt: skip


def _placed(part: Any, pointer: str) -> Any:
    """*part* with each `#/OWN` leading to the definition of the object that it stands in."""
    if isinstance(part, list):
        return [_placed(each, f"{pointer}/{number}") for number, each in enumerate(part)]
    if not isinstance(part, dict):
        return part
    own = f"{pointer}/$defs/Own" if "$defs" in part and "type" in part else None
    made = {}
    for key, inner in part.items():
        step = key.replace("~", "~0").replace("/", "~1")
        made[key] = _placed(inner, f"{pointer}/{step}")
    if (
        own is not None
        and isinstance(made.get("properties"), dict)
        and made["properties"].get("own") == {"$ref": "#/OWN"}
    ):
        made["properties"] = {**made["properties"], "own": {"$ref": own}}
    return made


SHARED = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
SCHEMAS = st.recursive(leaf(), branch, max_leaves=8).map(
    lambda one: _placed({**one, "$defs": {"Shared": SHARED, **one.get("$defs", {})}}, "#")
)


def fits(schema: dict[str, Any], value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


@given(SCHEMAS)
def test_what_is_sent_as_strict_is_what_the_strict_mode_accepts(schema: dict[str, Any]) -> None:
    made = strict(schema)
    if made is None:
        return
    assert strict_problem(made) is None, made
    value = invented(made, Random(1))
    if not fits(made, value):  # the simulator knows no patterns
        return
    given_ = value[WRAPPED] if is_wrapped(schema) else value
    loose = _without_bounds(schema)
    if "oneOf" not in json.dumps(schema):  # which of several fits is checked when the answer is there
        assert fits(loose, given_), (made, given_)


def _without_bounds(part: Any) -> Any:
    """What the strict form says in words alone."""
    if isinstance(part, list):
        return [_without_bounds(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {k: _without_bounds(v) for k, v in part.items() if k not in {"minLength", "maxLength", "pattern", "format"}}


@given(SCHEMAS)
def test_what_is_sent_without_strict_is_an_object_and_means_the_same(schema: dict[str, Any]) -> None:
    made = as_object(schema)
    assert made["type"] == "object"
    Draft202012Validator.check_schema(made)
    for value in (invented(schema, Random(seed)) for seed in range(3)):
        whole = {WRAPPED: value} if is_wrapped(schema) else value
        if fits(schema, value):
            assert fits(made, whole), (made, value)


@given(SCHEMAS)
def test_a_tools_schema_is_one_that_every_provider_accepts(schema: dict[str, Any]) -> None:
    made = for_tool(schema)
    assert made["type"] == "object"
    assert isinstance(made["properties"], dict)
    assert not {"anyOf", "oneOf", "allOf", "enum", "not", "$ref"} & made.keys()
    left: list[Any] = [made, *made["properties"].values(), *made.get("$defs", {}).values()]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            kinds = part.get("type")
            assert "array" not in (kinds if isinstance(kinds, list) else [kinds]) or isinstance(part["items"], dict)
            left += [each for key in ("anyOf", "oneOf", "allOf") for each in part.get(key, ())]
            left += [part["items"]] if isinstance(part.get("items"), dict) else []


@given(SCHEMAS)
def test_definitions_go_to_the_root_and_mean_the_same(schema: dict[str, Any]) -> None:
    made = rooted(schema)
    for value in (invented(schema, Random(seed)) for seed in range(3)):
        assert fits(schema, value) == fits(made, value), (made, value)


@given(SCHEMAS)
def test_anthropic_gets_no_list_of_types_beside_an_enum(schema: dict[str, Any]) -> None:
    made = untyped_unions(rooted(schema))
    left: list[Any] = [made]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            assert not ("enum" in part and isinstance(part.get("type"), list) and isinstance(part["enum"], list))
            left += [each for key, each in part.items() if key not in {"properties", "$defs"}]
            left += [
                each
                for key in ("properties", "$defs")
                if isinstance(part.get(key), dict)
                for each in part[key].values()
            ]
        elif isinstance(part, list):
            left += part
    for value in (invented(schema, Random(seed)) for seed in range(2)):
        assert fits(schema, value) == fits(made, value)


class Leaf(BaseModel):
    risk: Literal["low", "high"]
    score: float = Field(ge=0, le=10, description="how much")
    note: str | None


class Tree(BaseModel):
    name: str
    kind: Literal["a"] | None
    children: list[Tree]


class Either(BaseModel):
    which: Union[Leaf, Tree, int, list[str]]  # noqa: UP007 - as people write it
    maybe: Optional[Leaf]  # noqa: UP045 - likewise


class Defaults(BaseModel):
    a: int = 3


class Open(BaseModel):
    names: dict[str, int]


@pytest.mark.parametrize(
    ("model", "is_strict"), [(Leaf, True), (Tree, True), (Either, True), (Defaults, False), (Open, False)]
)
def test_pydantic_models_are_sent_as_strict_where_that_can_say_them(model: type[BaseModel], is_strict: bool) -> None:
    schema = model.model_json_schema()
    made = strict(schema)
    assert (made is not None) is is_strict
    if made is not None:
        assert strict_problem(made) is None
        model.model_validate(invented(made, Random(2)))
    assert as_object(schema)["type"] == "object"


FIELD_TYPES = st.sampled_from(
    [int, str, float, bool, str | None, list[int], Literal["x", "y"], Leaf, Leaf | None, list[Tree]]
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), FIELD_TYPES, min_size=1))
def test_random_models_are_strict(fields: dict[str, Any]) -> None:
    model = create_model("M", **{name: (kind, ...) for name, kind in fields.items()})
    made = strict(model.model_json_schema())
    assert made is not None
    assert strict_problem(made) is None
    model.model_validate(invented(made, Random(3)))


def test_the_short_form_of_fields_is_strict() -> None:
    fields = {"risk": "low | high", "mood": "good | bad?", "tags": ["string"], "inner": {"n": "number?"}}
    made = strict(schema_of(fields))
    assert made is not None
    assert strict_problem(made) is None
    assert made["properties"]["mood"] == {"type": ["string", "null"], "enum": ["good", "bad", None]}


def test_a_root_that_refers_to_itself_is_wrapped_and_still_does() -> None:
    schema = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#"}}]}
    made = strict(schema)
    assert made is not None
    assert strict_problem(made) is None
    assert fits(made, {"value": [1, [2, []]]})
    assert not fits(made, {"value": ["x"]})
