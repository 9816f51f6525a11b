"""Answers: JSON, and a problem as `code` and `message`, as on the ingest port."""

import msgspec
from aiohttp import web


def answer(status: int, value: object) -> web.Response:
    """*value* as JSON. It may be personal: nobody on the way keeps it."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def problem(status: int, code: str, message: str) -> web.Response:
    """What went wrong, as a fixed word and a sentence that ends with what to do."""
    return answer(status, {"code": code, "message": message})
