"""An MCP server by hand, line by line, that does what servers in the wild do. `odd_mcp_server.py MODE`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

MODE = sys.argv[1]
OUT = sys.stdout.buffer
OBJECT = {"type": "object", "properties": {}}
TOOLS = {
    "plain": [{"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object"}}],
    "names": [
        {"name": "files.read/all of it", "inputSchema": OBJECT},
        {"name": "files_read_all of it", "inputSchema": OBJECT},
        {"name": "x" * 100, "inputSchema": OBJECT},
        {"name": "größe", "inputSchema": OBJECT},
    ],
    "schemas": [
        {"name": "none"},
        {"name": "empty", "inputSchema": {}},
        {"name": "bare", "inputSchema": {"type": "object"}},
        {"name": "null", "inputSchema": {"type": "object", "properties": None}},
        {"name": "array", "inputSchema": {"type": "object", "properties": {"a": {"type": "array"}}}},
        {
            "name": "union",
            "inputSchema": {"anyOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {"type": "object", "properties": {"b": {"type": "string"}}}]},
        },
        {"name": "hints", "inputSchema": OBJECT, "annotations": {"readOnlyHint": "yes"}, "description": None},
        {"name": "required", "inputSchema": {"type": "object", "properties": {"a": True}, "required": None, "anyOf": 5}},
        {"name": "output", "inputSchema": OBJECT, "outputSchema": {"type": "array"}},
        {"description": "it has no name", "inputSchema": OBJECT},
    ],
}  # fmt: skip
PARTS = [
    {"type": "text", "text": "first"},
    {"type": "resource", "resource": {"uri": "file:///a.txt", "mimeType": "text/plain", "text": "inside"}},
    {"type": "resource_link", "uri": "file:///b.pdf", "name": "b.pdf", "description": "the report"},
    {"type": "image", "data": "aGVsbG8=", "mimeType": "image/png"},
    {"type": "resource", "resource": {"uri": "file:///c.bin", "blob": "aGVsbG8="}},
    {"type": "hologram", "depth": 3},
    {"type": "text", "text": "last"},
]


def send(message: object) -> None:
    OUT.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")  # type: ignore[dict-item]
    OUT.flush()


def answer(id_: object, method: str, params: dict) -> None:
    if method == "initialize":
        version = params["protocolVersion"]
        about = {"name": "odd", "version": "1"}
        send({"id": id_, "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}})
    elif method == "tools/list":
        listed(id_, params)
    elif method == "tools/call":
        called(id_, params)
    elif id_ is not None:
        send({"id": id_, "error": {"code": -32601, "message": "Method not found"}})


def listed(id_: object, params: dict) -> None:
    if MODE == "mute":
        return
    if MODE == "pages":
        number = int(params.get("cursor") or 0)
        send({"id": id_, "result": {"tools": TOOLS["plain"], "nextCursor": str(number + 1)}})
        return
    if MODE == "same-page":
        send({"id": id_, "result": {"tools": TOOLS["plain"], "nextCursor": "again"}})
        return
    send({"id": id_, "result": {"tools": TOOLS.get(MODE, TOOLS["plain"])}})


def called(id_: object, params: dict) -> None:
    arguments = params.get("arguments") or {}
    match MODE:
        case "parts":
            send({"id": id_, "result": {"content": PARTS}})
        case "sloppy":
            shapes = {
                "text": {"content": "just text", "isError": None},
                "nothing": {},
                "list": {"content": [], "structuredContent": [1, 2]},
                "value": {"structuredContent": {"a": 1}},
            }
            result = shapes[arguments["shape"]] if "shape" in arguments else {"content": []}
            send({"id": id_, "result": {"isError": False, **result}})
        case "latin":
            OUT.write(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"caf\xe9"}]}}\n' % id_)
            OUT.flush()
        case "noise":
            OUT.write(b"Listening on stdio ...\n\n")
            send({"method": "notifications/message", "params": {"level": "info", "data": "hi"}})
            send({"id": id_, "result": {"content": [{"type": "text", "text": "quiet now"}]}})
        case "huge":
            size = int(arguments.get("megabytes", 43)) * 2**20
            OUT.write(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % id_)
            for _ in range(size // 2**16):
                OUT.write(b"x" * 2**16)
            OUT.write(b'"}]}}\n')
            OUT.flush()
        case "words":
            with Path("calls").open("a") as file:
                file.write("call\n")
            send({"id": id_, "error": {"code": -32000, "message": arguments["words"]}})
        case "frozen":
            with Path("starts").open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(3600)
        case "leaves":
            send({"id": id_, "result": {"content": [{"type": "text", "text": str(os.getpid())}]}})
            os._exit(0)
        case "dies":
            with Path("deaths").open("a") as file:
                file.write(f"{os.getpid()}\n")
            os._exit(3)
        case _:
            send({"id": id_, "result": {"content": [{"type": "text", "text": json.dumps(arguments)}]}})


if MODE == "late":
    time.sleep(float(sys.argv[2]))
if MODE == "flood":
    for _ in range(40_000):
        sys.stderr.write("warning: " + "y" * 90 + "\n")
if MODE == "once":  # starts once, and never again
    if Path("started").exists():
        sys.exit("the licence is used up")
    Path("started").write_text("")
    MODE = "dies"
for line in sys.stdin.buffer:
    request = json.loads(line)
    answer(request.get("id"), request.get("method", ""), request.get("params") or {})
