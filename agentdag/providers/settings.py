"""How to reach one provider: what the file says, with the environment filled in.

Whatever came from the environment is a secret; `Secrets` takes it out of every text that leaves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agentdag.errors import UsageError
from agentdag.providers.http import SharedHttp

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SHORTEST_SECRET = 6
"""Shorter values are words of everyday text; taking them out would garble it."""


REDACTED = "[secret]"
"""What stands in the place of one."""


class Secrets:
    """Texts that must not leave, and their removal."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str | None) -> None:
        if secret and len(secret) >= _SHORTEST_SECRET and secret not in self._known:
            self._known.add(secret)
            written = {json.dumps(each)[1:-1] for each in self._known}  # as it stands in JSON
            longest_first = sorted(self._known | written, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def redact(self, text: str) -> str:
        """*text* with every secret replaced by `REDACTED`."""
        return text if self._pattern is None else self._pattern.sub(REDACTED, text)

    def redact_json(self, text: str) -> str:
        """The JSON *text* with every secret in its texts replaced, and still JSON."""
        if self._pattern is None or self._pattern.search(text) is None:
            return text
        return json.dumps(self._cleaned(json.loads(text)))

    def _cleaned(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, dict):
            return {self.redact(key): self._cleaned(item) for key, item in value.items()}
        return [self._cleaned(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True, slots=True)
class Settings:
    """One provider as its adapter gets it. None leaves the adapter's default.

    `environment` is where an adapter may look for its usual key; `http` is the run's one client.
    """

    name: str
    type: str
    http: SharedHttp
    secrets: Secrets
    environment: Mapping[str, str]
    base_url: str | None = None
    api_key: str | None = None
    api_version: str | None = None
    region: str | None = None
    project: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool | None = None
    max_tokens_field: str | None = None
    structured: str | None = None
    api: str | None = None
    omit: frozenset[str] = frozenset()
    finish_reasons: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def key(self, variable: str) -> str:
        """The API key: as declared, else *variable* of the environment; raises UsageError without one.

        A server of the user's own (`base_url`) never gets the key of the provider it imitates.
        """
        if self.api_key:
            return self.api_key
        if self.base_url is not None:
            return "none"
        key = whole_key(self.environment.get(variable, ""), variable)
        if not key:
            raise UsageError(
                f"`{self.name}` needs an API key: {variable} is not set",
                hint=f"export {variable}=..., or try the pipeline with --simulate",
            )
        self.secrets.add(key)
        return key


def whole_key(key: str, what: str) -> str:
    """*key* without the white space around it, such as the line end of the file that it was read from. Raises
    UsageError where something stands within that no header can carry; *what* says whose key it is."""
    key = key.strip()
    if not key.isprintable() or not key.isascii():
        odd = next(letter for letter in key if not (letter.isprintable() and letter.isascii()))
        where = f"{odd!r} as character {key.index(odd) + 1}"
        raise UsageError(f"{what} is no key: it has {where}", hint="copy it again, on one line")
    return key


def whole_address(address: str, place: str) -> str:
    """*address*, with what the environment holds filled in; raises UsageError where requests cannot go to it."""
    try:
        parts = urlsplit(address)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and address.isprintable()
    except ValueError:  # a port that is no number
        sound = False
    if not sound or " " in address:
        raise UsageError(f"{place} is no address: {address!r}", hint="write https://host:port/path")
    return address


def expand(value: Any, place: str, environment: Mapping[str, str], secrets: Secrets) -> Any:
    """*value* with `${NAME}` and `${NAME:-default}` filled in, in every text inside it.

    Raises UsageError where a variable without a default is not set; *place* says where it is read.
    """
    if isinstance(value, Mapping):
        return {key: expand(item, f"{place}.{key}", environment, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, place, environment, secrets) for item in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, default = match.groups()
        if found := environment.get(name):
            secrets.add(found)
            return found
        if default is None:
            raise UsageError(f"{place} reads ${{{name}}}, which is not set", hint=f"export {name}=...")
        return str(default)

    return _REFERENCE.sub(fill, value)
