"""An MCP server with a notebook, for research_agent.yaml: `python notes_server.py`. Needs the package `mcp`."""

from __future__ import annotations

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("notes")
_notes: list[str] = []


@server.tool()
def write(note: str, source: str) -> str:
    """Writes down a finding, with the report that it comes from."""
    _notes.append(f"{note} ({source})")
    return f"note {len(_notes)}"


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def read() -> list[str]:
    """All notes so far."""
    return _notes


if __name__ == "__main__":
    server.run()
