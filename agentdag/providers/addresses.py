"""What is wrong with a `base_url`, as far as that can be told from it and from a refusal."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from agentdag.errors import Failure
from agentdag.providers.settings import Settings

ENDPOINTS = ("/chat/completions", "/responses", "/messages", "/completions")
_ANTHROPIC = frozenset({"anthropic", "bedrock", "vertex"})
_ABOUT_MODEL = re.compile(r"model|deployment", re.IGNORECASE)
MISSING = frozenset({404, 405})
"""How servers answer where nothing is."""
_OPENAIS_HOSTS = re.compile(r"(^|\.)openai\.com$|\.azure\.(com|us|cn)$")


def is_openais_own(base_url: str) -> bool:
    """Whether OpenAI's own API is at *base_url*, or Azure's: others imitate it as far as they like."""
    return _OPENAIS_HOSTS.search(urlsplit(base_url).hostname or "") is not None


def without_query(base_url: str | None) -> tuple[str | None, dict[str, str] | None]:
    """*base_url* as it stands before a path, and the query that goes behind it."""
    parts = urlsplit(base_url or "")
    if base_url is None or not parts.query:
        return base_url, None
    return parts._replace(query="").geturl(), dict(parse_qsl(parts.query))


def misaddressed(kind: str, base_url: str) -> str | None:
    """What `base_url` of a provider of type *kind* certainly should be instead; None where it may be right."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    for endpoint in ENDPOINTS:
        if path.endswith(endpoint):
            path = path.removesuffix(endpoint)
            return f"{origin}{path.removesuffix('/v1') if kind in _ANTHROPIC else path}"
    if kind == "anthropic" and path.endswith("/v1"):
        return f"{origin}{path.removesuffix('/v1')}"
    return None


def likely_address(kind: str, base_url: str) -> str | None:
    """What `base_url` of a provider of type *kind* should be instead, where nothing is at it as it stands; None where
    nobody knows."""
    better = misaddressed(kind, base_url)
    if better is None and kind == "openai" and not urlsplit(base_url).path.strip("/"):
        better = f"{base_url.rstrip('/')}/v1"
    return better


def mend_of_address(settings: Settings, base_url: str, path: str, failure: Failure) -> str | None:
    """What to write as `base_url` where nothing is at the address that was asked; None where that is not the cause."""
    if failure.status not in MISSING or (_ABOUT_MODEL.search(failure.message) and "HTML" not in failure.message):
        return None
    better = likely_address(settings.type, base_url)
    if better is None and settings.type == "openai" and path == "/responses":
        return f"if this server knows no Responses API, write `providers: {{{settings.name}: {{api: chat}}}}`"
    return None if better is None else f"try `base_url: {better}`"
