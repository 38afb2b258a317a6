"""Providers as a pipeline's file describes them, with the environment filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentdag.language.limits import RateSpec
from agentdag.language.spec import ProviderSpec
from agentdag.providers.http import SharedHttp
from agentdag.providers.settings import Secrets, Settings, expand, whole_address, whole_key

_NOT_SETTINGS = frozenset({"type", "prices", "models", "omit", "service_tier", *RateSpec.model_fields})
"""Keys of a provider that its adapter is not given as they are."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every provider of a run shares."""

    http: SharedHttp
    secrets: Secrets
    environment: Mapping[str, str]


def settings_of(name: str, spec: ProviderSpec, around: Surroundings) -> Settings:
    """How the provider *name* is reached. Raises UsageError where a variable is not set."""
    around.secrets.add(spec.api_key if spec.api_key and "${" not in spec.api_key else None)
    said = expand(spec.model_dump(exclude=set(_NOT_SETTINGS)), f"providers.{name}", around.environment, around.secrets)
    if said["api_key"] is not None:
        said["api_key"] = whole_key(said["api_key"], f"`providers.{name}.api_key`")
    if said["base_url"] is not None:
        said["base_url"] = whole_address(said["base_url"], f"`providers.{name}.base_url`")
    return Settings(
        name=name,
        type=spec.type or name,
        http=around.http,
        secrets=around.secrets,
        environment=around.environment,
        omit=frozenset(spec.omit),
        **said,
    )
