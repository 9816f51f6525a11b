"""
aiohttp's own client that posts ready-made bodies, one after the other, as a limit to compare with.

    python -m benchmarks.bare_client URL FILE SECONDS

FILE holds bodies, each behind its length in 8 bytes; they are sent again and again. Prints bodies
a second.
"""

import sys
import time
from pathlib import Path

import aiohttp
import uvloop


def bodies(file: Path) -> list[bytes]:
    data, found, at = file.read_bytes(), [], 0
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 8], "big")
        found.append(data[at + 8 : end])
        at = end
    return found


async def post(url: str, ready: list[bytes], seconds: float) -> float:
    headers = {"Content-Type": "application/json"}
    sent = 0
    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            body = ready[sent % len(ready)]
            async with session.post(url, data=body, headers=headers) as answer:
                await answer.read()
                assert answer.status == 200
            sent += 1
        return sent / (time.perf_counter() - began)


if __name__ == "__main__":
    print(uvloop.run(post(sys.argv[1], bodies(Path(sys.argv[2])), float(sys.argv[3]))))
