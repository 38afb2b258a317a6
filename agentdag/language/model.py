"""What all parts of the language share as pydantic models: unknown keys and wrong types are refused.

A key that begins with `x-` is the user's own.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


def without_own_keys(value: Any) -> Any:
    """A mapping without the keys that begin with `x-`."""
    if isinstance(value, dict) and any(str(key).startswith("x-") for key in value):
        return {key: item for key, item in value.items() if not str(key).startswith("x-")}
    return value


class Model(BaseModel):
    """One mapping of the language."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_own_keys(cls, value: Any) -> Any:
        return without_own_keys(value)
