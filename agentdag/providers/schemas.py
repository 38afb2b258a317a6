"""JSON Schemas in the forms that providers accept.

What is sent may be narrower in words than what the file says, never wider in meaning than what is checked: every answer
is checked against the schema as written, elsewhere. Where no strict form exists, a schema goes without `strict`.

Rules: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
https://docs.anthropic.com/en/docs/build-with-claude/structured-outputs#json-schema-limitations
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
WRAPPED = "value"
"""The property that holds an answer which is no object."""
MAX_PROPERTIES = 5000
MAX_DEPTH = 10
MAX_ENUM_VALUES = 1000
MAX_NAME_CHARACTERS = 120_000
"""Of all names of properties and definitions, and all values of enums."""
_ROOT = "root"
_REFERENCE = "#/$defs/"
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_BOUNDS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "pattern"}
)
_STRICT_WORDS = _BOUNDS | {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"}
_STRICT_WORDS |= {"$ref", "description", "title", "format"}
_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})
"""Words that constrain nothing."""
_HEADERS = frozenset({"$schema", "$id", "$anchor", "$defs", "definitions", "$dynamicAnchor", "$vocabulary"})
_IN_WORDS = frozenset(
    {"minLength", "maxLength", "pattern", "format", "uniqueItems", "minProperties", "maxProperties", "contains"}
)
"""Constraints that a strict mode may not know: the description says them."""


class _NotStrictError(Exception):
    """There is no strict form."""


_ONE = frozenset(
    {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "additionalItems"}
) | {"unevaluatedItems", "unevaluatedProperties"}
_SEVERAL = frozenset({"anyOf", "oneOf", "allOf", "prefixItems", "items"})
_NAMED = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Under which words of a schema others stand: one, a list of them, or some by name."""


def _inner(schema: Schema) -> Iterator[tuple[str, Any]]:
    """The schemas that stand directly in *schema*, each with the pointer that leads there."""
    for word, value in schema.items():
        if word in _NAMED and isinstance(value, dict):
            for name, each in value.items():
                yield f"{word}/{_escaped(str(name))}", each
        elif word in _SEVERAL and isinstance(value, list):
            for number, each in enumerate(value):
                yield f"{word}/{number}", each
        elif word in _ONE and isinstance(value, dict):
            yield word, value


def _mapped(schema: Schema, change: Callable[[Any], Any]) -> dict[str, Any]:
    """*schema* with *change* made to each schema that stands directly in it."""
    made: dict[str, Any] = {}
    for word, value in schema.items():
        if word in _NAMED and isinstance(value, dict):
            made[word] = {name: change(each) for name, each in value.items()}
        elif word in _SEVERAL and isinstance(value, list):
            made[word] = [change(each) for each in value]
        else:
            made[word] = change(value) if word in _ONE and isinstance(value, dict) else value
    return made


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def is_object(schema: Schema) -> bool:
    """Whether what fits *schema* is certainly an object, by its own word."""
    return schema.get("type") == "object" and not {"anyOf", "oneOf", "allOf", "not", "enum", "if"} & schema.keys()


def rooted(schema: Schema) -> dict[str, Any]:
    """*schema* with all of its definitions at the root; a root that is a reference becomes what it refers to."""
    definitions: dict[str, Any] = {}
    names: dict[str, str] = {}
    _collect(schema, "#", definitions, names)
    body = _moved(schema, names)
    definitions = {name: _moved(each, names) for name, each in definitions.items()}
    seen: set[str] = set()
    while set(body) - _NOTES == {"$ref"} and body["$ref"] not in seen:
        seen.add(body["$ref"])
        target = definitions.get(body["$ref"].removeprefix(_REFERENCE))
        if not isinstance(target, dict):
            break
        body = {**target, **{key: value for key, value in body.items() if key in {"title", "description"}}}
    return {**body, "$defs": definitions} if definitions else body


def _collect(schema: Any, pointer: str, found: dict[str, Any], names: dict[str, str]) -> None:
    """Find every definition below *schema*, and by which pointers each is known that goes to the root."""
    if not isinstance(schema, dict):
        return
    for step, each in _inner(schema):
        here = f"{pointer}/{step}"
        if step.startswith(("$defs/", "definitions/")):
            name = step.partition("/")[2].replace("~1", "_").replace("~0", "_")
            own, number = name, 1
            while own in found:
                number += 1
                own = f"{name}_{number}"
            found[own], names[here] = each, own
        _collect(each, here, found, names)


def _moved(schema: Any, names: Mapping[str, str]) -> Any:
    """*schema* without definitions, its references leading to where they are now."""
    if not isinstance(schema, dict):
        return schema
    bare = {word: value for word, value in schema.items() if word not in _HEADERS}
    reference = bare.get("$ref")
    if isinstance(reference, str) and reference in names:
        bare["$ref"] = f"{_REFERENCE}{names[reference]}"
    return _mapped(bare, lambda each: _moved(each, names))


def _refers_to_root(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    return schema.get("$ref") == "#" or any(_refers_to_root(each) for _, each in _inner(schema))


def as_object(schema: Schema) -> dict[str, Any]:
    """*schema*, with its definitions at the root, as one of an object, which providers demand: anything else becomes
    the property `WRAPPED` of one."""
    body = rooted(schema)
    if is_object(body):
        return body
    definitions = body.pop("$defs", {})
    if _refers_to_root({**body, "$defs": definitions}):
        name = _ROOT
        while name in definitions:
            name += "_"
        definitions = {own: _redirected(each, name) for own, each in {**definitions, name: body}.items()}
        body = {"$ref": f"{_REFERENCE}{name}"}
    wrapped = {
        "type": "object",
        "properties": {WRAPPED: body},
        "required": [WRAPPED],
        "additionalProperties": False,
    }
    return {**wrapped, "$defs": definitions} if definitions else wrapped


def _redirected(schema: Any, name: str) -> Any:
    """*schema* with its references to the root leading to the definition *name*."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("$ref") == "#":
        schema = {**schema, "$ref": f"{_REFERENCE}{name}"}
    return _mapped(schema, lambda each: _redirected(each, name))


def is_wrapped(schema: Schema) -> bool:
    """Whether `as_object` puts an answer that fits *schema* into `WRAPPED`."""
    return not is_object(schema) and not is_object(rooted(schema))


def strict(schema: Schema) -> dict[str, Any] | None:
    """*schema* of an object as OpenAI's strict mode accepts it; None where it cannot be said so.

    Objects are closed, enums have their type, a reference stands alone, and constraints that are not known there
    become part of the description.
    """
    body = as_object(schema)
    definitions = body.pop("$defs", {})
    try:
        made = _strict(body)
        inner = {name: _strict(each) for name, each in definitions.items()}
    except (_NotStrictError, RecursionError):
        return None
    whole = {**made, "$defs": inner} if inner else made
    return whole if _fits_limits(whole) else None


def _strict(part: Any) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise _NotStrictError
    if "$ref" in part:
        if set(part) - _NOTES - {"$ref"} or not isinstance(part["$ref"], str):
            raise _NotStrictError
        if part["$ref"] != "#" and not part["$ref"].startswith(_REFERENCE):
            raise _NotStrictError
        return {"$ref": part["$ref"]}
    part = _unioned(part)
    if "anyOf" in part:
        if set(part) - _NOTES - {"anyOf"} or not isinstance(part["anyOf"], list) or not part["anyOf"]:
            raise _NotStrictError
        return {**_noted(part), "anyOf": [_strict(each) for each in part["anyOf"]]}
    if "enum" in part or "const" in part:
        return _strict_values(part)
    kinds = part.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not kinds:
        raise _NotStrictError
    known = set(part) - _NOTES
    made = {**_noted(part), "type": part["type"]}
    if "object" in kinds:
        known -= {"properties", "required", "additionalProperties"}
        made |= _strict_object(part)
    if "array" in kinds:
        known -= {"items"}
        made["items"] = _strict(part.get("items"))
    kept = {word for word in known & (_BOUNDS | {"format"}) if _is_known(word, part[word])}
    if known - {"type"} - kept - _IN_WORDS - _BOUNDS:
        raise _NotStrictError
    made |= {word: part[word] for word in part if word in kept}
    return _told(made, {word: part[word] for word in part if word in known - {"type"} - kept})


def _unioned(part: dict[str, Any]) -> dict[str, Any]:
    """*part* with `oneOf` as `anyOf`, and without an `allOf` of one."""
    if "oneOf" in part and "anyOf" not in part:
        part = {("anyOf" if key == "oneOf" else key): value for key, value in part.items()}
    combined = part.get("allOf")
    if isinstance(combined, list) and len(combined) == 1 and isinstance(combined[0], dict):
        rest = {key: value for key, value in part.items() if key != "allOf"}
        if set(rest) - _NOTES:
            raise _NotStrictError
        return _unioned({**combined[0], **({} if "$ref" in combined[0] else rest)})
    if "anyOf" in part and "type" in part:  # said twice, as some generators do
        part = {key: value for key, value in part.items() if key != "type"}
    return part


def _strict_values(part: dict[str, Any]) -> dict[str, Any]:
    """An enum or a constant, with the type of its values."""
    values = part["enum"] if "enum" in part else [part["const"]]
    if set(part) - _NOTES - {"enum", "const", "type"} or not isinstance(values, list) or not values:
        raise _NotStrictError
    kinds = list(dict.fromkeys(map(_kind_of, values)))
    if "number" in kinds and "integer" in kinds:
        kinds.remove("integer")
    return {**_noted(part), "type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _kind_of(value: Any) -> str:
    match value:
        case bool():
            return "boolean"
        case str():
            return "string"
        case int():
            return "integer"
        case float():
            return "number"
        case None:
            return "null"
    raise _NotStrictError


def _strict_object(part: dict[str, Any]) -> dict[str, Any]:
    properties, others = part.get("properties"), part.get("additionalProperties", False)
    if not isinstance(properties, dict) or not properties or others is not False:
        raise _NotStrictError  # any names are allowed: a map
    required = set(part.get("required", ()))
    if any(name not in required and not _admits_null(inner) for name, inner in properties.items()):
        raise _NotStrictError  # a strict mode fills in every property, and this one may be left out but not null
    if not required <= set(properties):
        raise _NotStrictError
    return {
        "properties": {name: _strict(inner) for name, inner in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


def _admits_null(schema: Any) -> bool:
    """Whether null certainly fits *schema*."""
    if not isinstance(schema, dict):
        return False
    kinds = schema.get("type")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds):
        return "enum" not in schema or None in schema["enum"]
    if "enum" in schema:
        return kinds is None and None in schema["enum"]
    return any(_admits_null(each) for each in schema.get("anyOf", ()))


def _is_known(word: str, value: Any) -> bool:
    if word == "format":
        return value in _FORMATS
    if word == "pattern":
        return isinstance(value, str) and "(?" not in value and "\\b" not in value
    return True


def _noted(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: part[key] for key in ("title", "description") if isinstance(part.get(key), str)}


def _told(made: dict[str, Any], dropped: Mapping[str, Any]) -> dict[str, Any]:
    """*made*, whose description says what was *dropped*."""
    if not dropped:
        return made
    words = ", ".join(f"{word}: {json.dumps(value, ensure_ascii=False)}" for word, value in dropped.items())
    about = made.get("description")
    return {**made, "description": f"{about} ({words})" if about else f"({words})"}


def _fits_limits(schema: Schema) -> bool:
    properties = values = characters = 0
    left: list[tuple[Any, int]] = [(schema, 0)]
    while left:
        part, depth = left.pop()
        if not isinstance(part, dict):
            continue
        if depth > MAX_DEPTH:
            return False
        named = part.get("properties", {})
        properties += len(named)
        enum = part.get("enum", ())
        values += len(enum)
        texts = [*named, *part.get("$defs", {}), *(each for each in enum if isinstance(each, str))]
        characters += sum(map(len, texts))
        left += [(each, depth + 1) for each in named.values()]
        left += [(each, depth) for each in (*part.get("$defs", {}).values(), *part.get("anyOf", ()))]
        left.append((part.get("items"), depth + 1))
    return properties <= MAX_PROPERTIES and values <= MAX_ENUM_VALUES and characters <= MAX_NAME_CHARACTERS


def for_tool(schema: Schema) -> dict[str, Any]:
    """*schema* of a tool's arguments as providers accept it, for tools that others bring.

    The root is an object with `properties`, arrays have `items`, definitions stand at the root. The tool itself
    checks its arguments.
    """
    try:
        body = rooted(schema)
        definitions = body.pop("$defs", {})
        made = _object_of(body, definitions)
        return _completed({**made, "$defs": definitions} if definitions else made)
    except (TypeError, ValueError, AttributeError, KeyError, RecursionError):
        return {"type": "object", "properties": {}}  # it is no JSON Schema


def _object_of(body: Mapping[str, Any], definitions: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """*body* as one object: the alternatives of a union at the root are merged, as no provider accepts them."""
    if depth > MAX_DEPTH:
        return {"type": "object", "properties": {}}
    reference = body.get("$ref")
    if isinstance(reference, str):
        target = definitions.get(reference.removeprefix(_REFERENCE))
        return _object_of(target if isinstance(target, dict) else {}, definitions, depth + 1)
    own = body.get("properties")
    properties: dict[str, Any] = dict(own) if isinstance(own, dict) else {}
    required = [name for name in _listed(body.get("required")) if isinstance(name, str)]
    for word in ("allOf", "anyOf", "oneOf"):
        inner = [_object_of(each, definitions, depth + 1) for each in _listed(body.get(word)) if isinstance(each, dict)]
        for each in inner:
            for name, schema in each["properties"].items():
                known = properties.get(name)
                if known is None or known == schema:
                    properties[name] = schema
                elif not (isinstance(known, dict) and schema in _listed(known.get("anyOf"))):
                    several = known["anyOf"] if isinstance(known, dict) and set(known) == {"anyOf"} else [known]
                    properties[name] = {"anyOf": [*several, schema]}
        needed = [set(each.get("required", ())) for each in inner]
        if needed:
            shared = set.union(*needed) if word == "allOf" else set.intersection(*needed)
            required += [name for name in properties if name in shared and name not in required]
    kept = {key: body[key] for key in ("title", "description", "additionalProperties") if key in body}
    made: dict[str, Any] = {**kept, "type": "object", "properties": properties}
    if required:
        made["required"] = [name for name in dict.fromkeys(required) if name in properties]
    return made


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _completed(schema: Schema) -> dict[str, Any]:
    """*schema* with `items` in every array."""
    made = _mapped(schema, lambda each: _completed(each) if isinstance(each, dict) else each)
    kinds = made.get("type")
    if "array" in (kinds if isinstance(kinds, list) else [kinds]) and not isinstance(made.get("items"), dict):
        made["items"] = _item(made.pop("prefixItems", None))
    return made


def _item(several: Any) -> dict[str, Any]:
    """The schema of the items of an array that names none, or one for each place."""
    if isinstance(several, list) and several:
        return {"anyOf": [each for each in several if isinstance(each, dict)]}
    return {}


def untyped_unions(schema: Any) -> Any:
    """*schema* with each list of types beside an `enum` as `anyOf`: Anthropic refuses the list there."""
    if not isinstance(schema, dict):
        return schema
    values, kinds = schema.get("enum"), schema.get("type")
    several = isinstance(kinds, list) or (kinds is None and isinstance(values, list))
    if not isinstance(values, list) or not several:
        return _mapped(schema, untyped_unions)
    by_kind: dict[str, list[Any]] = {}
    for each in values:
        try:
            by_kind.setdefault(_kind_of(each), []).append(each)
        except _NotStrictError:
            return schema
    rest = {word: value for word, value in schema.items() if word not in {"type", "enum"}}
    alternatives = [
        {"type": "null"} if kind == "null" else {"type": kind, "enum": some} for kind, some in by_kind.items()
    ]
    return {**rest, **alternatives[0]} if len(alternatives) == 1 else {**rest, "anyOf": alternatives}
