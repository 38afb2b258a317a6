"""An MCP server for tests: run with `stdio`, or with `http PORT`. It misbehaves as it is asked to."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from mcp.server import MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("misbehaves")
READS = ToolAnnotations(read_only_hint=True)


@server.tool(annotations=READS)
async def echo(text: str) -> str:
    """Says the same again."""
    await asyncio.sleep(0.01)
    return text


@server.tool(annotations=READS)
def slow(seconds: float) -> str:
    """Takes a while."""
    return f"{seconds}"


@server.tool(annotations=READS)
async def hang() -> str:
    """Never answers."""
    await asyncio.sleep(3600)
    return ""


@server.tool()
def die() -> str:
    """Is killed in mid-call."""
    with Path("deaths").open("a") as file:
        file.write(f"{os.getpid()}\n")
    os._exit(3)


@server.tool(annotations=READS)
def flood(characters: int) -> str:
    """Says very much, on both streams."""
    for _ in range(2000):
        print("noise" * 20, file=sys.stderr)
    return "x" * characters


@server.tool(annotations=READS)
def fail() -> str:
    """Fails."""
    raise ValueError("no such luck")


@server.tool(annotations=READS)
def pid() -> str:
    """Its process."""
    with Path("pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return str(os.getpid())


if __name__ == "__main__":
    if sys.argv[1] == "http":
        server.run(transport="streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run()
