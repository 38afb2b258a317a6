"""Values that fit a JSON Schema, for the simulator: plausible in their shape, and the same for the same chance."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

_DEEP = 6
"""Below so many levels only what is required is made."""
_ITEMS = 3
_HIGHEST = 10
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


def invented(schema: Mapping[str, Any], chance: Random) -> Any:
    """A value of *schema*, as far as its commonest words go; `pattern` and conditions are not followed."""
    return _value(schema, schema, chance, "value", 0)


def _value(schema: Any, root: Mapping[str, Any], chance: Random, name: str, depth: int) -> Any:
    if not isinstance(schema, Mapping):
        return name
    if isinstance(schema.get("$ref"), str):
        return _value(_target(schema["$ref"], root), root, chance, name, depth + 1) if depth < 2 * _DEEP else None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return chance.choice(schema["enum"])
    for word in ("anyOf", "oneOf"):
        if schema.get(word):
            parts = [part for part in schema[word] if isinstance(part, dict) and part.get("type") != "null"]
            return _value(parts[0], root, chance, name, depth + 1) if parts else None
    if schema.get("allOf"):
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= part if isinstance(part, dict) else {}
        return _value({**{k: v for k, v in schema.items() if k != "allOf"}, **merged}, root, chance, name, depth + 1)
    return _typed(schema, root, chance, name, depth)


def _typed(schema: Mapping[str, Any], root: Mapping[str, Any], chance: Random, name: str, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    match kind or ("object" if "properties" in schema else "array" if "items" in schema else "string"):
        case "object":
            properties = schema.get("properties", {})
            required = set(schema.get("required", ()))
            return {
                key: _value(part, root, chance, key, depth + 1)
                for key, part in properties.items()
                if depth < _DEEP or key in required
            }
        case "array":
            least, most = schema.get("minItems", 0), schema.get("maxItems", _ITEMS)
            number = max(least, min(most, 0 if depth >= _DEEP else _ITEMS - 1))
            return [_value(schema.get("items", {}), root, chance, name, depth + 1) for _ in range(number)]
        case "integer":
            low, high = _bounds(schema)
            return chance.randint(int(low), max(int(low), int(high)))
        case "number":
            low, high = _bounds(schema)
            return round(chance.uniform(low, high), 2)
        case "boolean":
            return chance.random() < 0.5
        case "null":
            return None
    return _text(schema, name)


def _text(schema: Mapping[str, Any], name: str) -> str:
    text = _FORMATS.get(schema.get("format", ""), f"simulated {name}")
    return text.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength", len(text) + 1000)]


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = 0 if high is None or high >= 0 else high - _HIGHEST
    if high is None:
        high = max(low, 0) + _HIGHEST
    step = 1 if "exclusiveMinimum" in schema else 0
    return low + step, high - (1 if "exclusiveMaximum" in schema else 0)


def _target(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#/").split("/") if reference != "#" else ():
        found = found.get(step) if isinstance(found, Mapping) else None
    return found
