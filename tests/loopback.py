"""A server of a test's own on loopback, in a thread of its own, and processes that are to be gone."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from aiohttp import web


class Loopback:
    """Serves what `routes` adds, at `url`, from `start` to `stop`."""

    url: str = ""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._closing = asyncio.Event()

    def routes(self, app: web.Application) -> None:
        """What it answers."""
        raise NotImplementedError

    def stop(self) -> None:
        """What is still being answered is cut."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(10)

    def serve(self) -> None:
        """Begin; returns once it can be reached."""
        self._thread.start()
        assert self._ready.wait(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._main())
        stalled = asyncio.all_tasks(self.loop)
        for task in stalled:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*stalled, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    async def _main(self) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        self.routes(app)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._closing.wait()
        await runner.cleanup()


def is_gone(pid: int) -> bool:
    """Whether no such process is left, after a moment."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
    return False
