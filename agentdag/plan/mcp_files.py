"""MCP servers in a JSON file, as other clients write them.

Formats: https://code.claude.com/docs/en/mcp (`mcpServers`), https://cursor.com/docs/mcp (`mcpServers`),
https://code.visualstudio.com/docs/copilot/reference/mcp-configuration (`servers`), Gemini CLI (`httpUrl`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentdag.language.findings import did_you_mean

_ROOTS = ("mcpServers", "servers")
_OVER_HTTP = frozenset({"http", "streamable-http", "streamableHttp", "streamable_http"})
_VARIABLE = re.compile(r"\$\{(env:)?([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}|\$\{([^}]*)\}")


class ServerProblem(Exception):
    """The file does not say how to reach the server: why, and the mend. *of_name* where it is the server's name."""

    def __init__(self, message: str, hint: str, *, of_name: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.of_name = of_name


_PLAIN = "write plain JSON, without comments and without a comma before a closing bracket"


def server_in(text: str, name: str, folder: Path) -> dict[str, Any]:
    """How the server *name* in a file that holds *text* is reached, in the words of `mcp`: command, env, cwd, or url
    and headers. *folder* is the pipeline's. Raises ServerProblem."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ServerProblem(
            f"it is not JSON: {error}",
            _PLAIN,
        ) from None
    servers = next(
        (whole[root] for root in _ROOTS if isinstance(whole, dict) and isinstance(whole.get(root), dict)), None
    )
    if servers is None:
        raise ServerProblem("it has no `mcpServers`", 'write {"mcpServers": {"name": {"command": "...", "args": []}}}')
    if name not in servers:
        hint = did_you_mean(name, servers) or f"write `server:` with one of {', '.join(servers)}"
        raise ServerProblem(f"it has no server `{name}`", hint, of_name=True)
    entry = servers[name]
    if not isinstance(entry, dict):
        raise ServerProblem(f"its server `{name}` is no object", "write a command or a url")
    if entry.get("disabled") is True:
        raise ServerProblem(f"its server `{name}` is disabled", "remove `disabled`, or the tool")
    return _settings(entry, name, folder)


def _settings(entry: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    kind = entry.get("type") or entry.get("transport")
    url = entry.get("httpUrl") or entry.get("url") or entry.get("serverUrl")
    if kind == "sse":
        raise ServerProblem(f"its server `{name}` speaks SSE, which MCP has replaced", "use its address for `http`")
    if isinstance(url, str) and kind in {None, *_OVER_HTTP}:
        return {"url": _text(url, folder), "headers": _texts(entry.get("headers"), folder)}
    command, arguments = entry.get("command"), entry.get("args", [])
    if not isinstance(command, str) or not isinstance(arguments, list):
        raise ServerProblem(f"its server `{name}` has no command and no url", "write one of them")
    told: dict[str, Any] = {
        "command": [_text(command, folder), *(_text(str(each), folder) for each in arguments)],
        "env": _texts(entry.get("env"), folder),
    }
    return told if not isinstance(entry.get("cwd"), str) else {**told, "cwd": _text(entry["cwd"], folder)}


def _texts(told: Any, folder: Path) -> dict[str, str]:
    return {str(key): _text(str(value), folder) for key, value in told.items()} if isinstance(told, dict) else {}


def _text(text: str, folder: Path) -> str:
    """*text* with the variables of other clients written as agentdag reads them. Raises ServerProblem for those that
    only another client can fill in."""

    def written(match: re.Match[str]) -> str:
        _, variable, default, other = match.groups()
        if variable == "workspaceFolder":
            return str(folder.resolve())
        if variable == "userHome":
            return "${HOME}"
        if variable is not None:
            return f"${{{variable}{default or ''}}}"
        raise ServerProblem(f"it reads ${{{other}}}, which only another client knows", "use a variable: ${NAME}")

    return _VARIABLE.sub(written, text)
