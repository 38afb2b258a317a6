"""Plain values as YAML text for people to read and to compare: long texts as blocks, no text like a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

_LIKE_A_NUMBER = re.compile(r"[-+.0-9][-+.0-9a-fA-FxXoO_eE]*")


def written(value: Any) -> str:
    """*value* as YAML, its keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes long texts as blocks, and in quotes whatever one version of YAML or another would take for a number."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML asks
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else '"' if _LIKE_A_NUMBER.fullmatch(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _list(dumper: _Dumper, value: list[Any]) -> yaml.SequenceNode:
    plain = all(isinstance(item, (int, float)) or (isinstance(item, str) and len(item) < 40) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=plain)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)
