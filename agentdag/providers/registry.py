"""Which providers there are: a literal table, and the entry points of other packages.

An entry point in the group `agentdag.providers` is named as the provider's type and gives a callable
from `Settings` to a `Provider`. Nothing is imported until a run needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from agentdag.calls import Provider
from agentdag.errors import UsageError
from agentdag.providers.settings import Settings

GROUP = "agentdag.providers"
SIMULATED = "simulated"
_BUILT_IN = {
    "openai": "agentdag.providers.openai:OpenAIProvider",
    "azure": "agentdag.providers.openai:OpenAIProvider",
    "anthropic": "agentdag.providers.anthropic:AnthropicProvider",
    "bedrock": "agentdag.providers.anthropic:AnthropicProvider",
    "vertex": "agentdag.providers.anthropic:AnthropicProvider",
}
_CLOUD = frozenset({"api_version", "region", "project"})
_OPENAI = frozenset({"max_tokens_field", "api", "service_tier"})
_ANTHROPIC = _OPENAI | {"seed", "options"}
_UNSUPPORTED = {
    "openai": frozenset({"options", "thinking"}) | _CLOUD,
    "azure": frozenset({"options", "thinking", "region", "project"}),
    "anthropic": _ANTHROPIC | _CLOUD,
    "bedrock": _ANTHROPIC | {"api_version", "project"},
    "vertex": _ANTHROPIC | {"api_version"},
    SIMULATED: frozenset(
        {"base_url", "api_key", "headers", "options", "max_tokens_field", "structured", "api", "omit", "finish_reasons"}
    )
    | _CLOUD,
}
"""The settings and the model parameters that mean nothing for a type; saying so beats ignoring them."""


@cache
def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def provider_types() -> dict[str, frozenset[str]]:
    """Every type that a pipeline may name, each with the settings and model parameters that it does not know."""
    return {kind: _UNSUPPORTED.get(kind, frozenset()) for kind in (*_BUILT_IN, SIMULATED, *_installed())}


def create(settings: Settings) -> Provider:
    """The provider for *settings*; raises UsageError where it cannot be made."""
    if settings.type in _BUILT_IN:
        module, _, name = _BUILT_IN[settings.type].partition(":")
        make: Callable[[Settings], Provider] = getattr(import_module(module), name)
        return make(settings)
    try:
        make = _installed()[settings.type].load()
        return make(settings)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"the provider `{settings.name}` cannot be made: {type(error).__name__}: {error}") from error
