"""
Bare: aiohttp's own `web.Application` with handlers that do nothing, as a limit to compare with.

    python -m benchmarks.bare 8081
"""

import sys

import uvloop
from aiohttp import web

from collector.ingest.pixel import GIF


async def image(request: web.Request) -> web.Response:
    return web.Response(body=GIF, content_type="image/gif")


async def read(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=b'{"success":true}', content_type="application/json")


async def serve(port: int) -> None:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/v1/pixel/track", image)
    app.router.add_post("/v1/t", read)
    app.router.add_post("/v1/batch", read)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    import asyncio

    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
