"""
Reload: SIGHUP reads the settings again, and what may change while events are taken does.

    sources (keys, origins, cookies, limits), [limits], [redirect]      at once
    everything else                                                     at the next start

Requests under way end as they began; none is dropped. A file that cannot be used changes nothing:
the log, `collector status` and `collector_config_refused` say so until a good one is read.
"""

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from collector import metrics
from collector.config import Config
from collector.destinations.route import Kind
from collector.errors import ConfigError
from collector.ingest import Ingest

log = logging.getLogger(__name__)

APPLIED = frozenset({"sources", "limits", "redirect"})


class Reloader:
    """Applies settings that were read again to the running parts."""

    def __init__(
        self,
        read: Callable[[], Config] | None,
        config: Config,
        ingest: Ingest,
        kinds: MutableMapping[str, Kind],
    ) -> None:
        """*kinds* are those of all sources, which destinations ask for."""
        self._read = read
        self._started_with = config
        self._ingest = ingest
        self._kinds = kinds
        self._loaded_at = time.time()
        self._trouble: str | None = None
        self._waiting: list[str] = []

    def facts(self) -> dict[str, Any]:
        """When the settings were read, what was refused since, and what waits for a restart."""
        return {
            "loaded_at": round(self._loaded_at, 1),
            "trouble": self._trouble,
            "restart_for": self._waiting,
        }

    async def serve(self, asked: asyncio.Event) -> None:
        """Reload whenever *asked* is set."""
        while True:
            await asked.wait()
            asked.clear()
            await self.reload()

    async def reload(self) -> bool:
        """Read the settings and apply them; False if they are refused."""
        try:
            if self._read is None:
                raise ConfigError("nobody knows where these settings came from: start it anew")
            config = await asyncio.to_thread(self._read)
            _check(config)
            self._ingest.reload(config.sources, config.redirect, config.limits)
        except ConfigError as exc:
            self._refuse(exc.detail)
            return False
        except Exception as exc:  # a defect of ours leaves the old settings, too
            log.exception("Reloading the settings failed inside the collector")
            self._refuse(f"internal error: {type(exc).__name__}")
            return False
        kinds: dict[str, Kind] = {source.name: source.kind for source in config.sources}
        for name in set(self._kinds) - set(kinds):
            del self._kinds[name]
        self._kinds.update(kinds)
        self._loaded_at, self._trouble = time.time(), None
        self._waiting = [
            name
            for name in Config.__struct_fields__
            if name not in APPLIED and getattr(config, name) != getattr(self._started_with, name)
        ]
        metrics.reloads.labels("applied").inc()
        metrics.config_refused.set(0)
        log.info("The settings were read again", extra={"sources": len(config.sources)})
        if self._waiting:
            log.warning(
                "Some settings changed that only a restart applies",
                extra={"settings": ", ".join(self._waiting)},
            )
        return True

    def _refuse(self, detail: str) -> None:
        self._trouble = detail
        metrics.reloads.labels("refused").inc()
        metrics.config_refused.set(1)
        log.error(
            "The settings cannot be used; those before them stay in force",
            extra={"reason": detail},
        )


def _check(config: Config) -> None:
    """What would keep a start with *config* from succeeding later."""
    names = {source.name for source in config.sources}
    for destination in config.destinations:
        for source in (*destination.sources, *destination.sources_except):
            if source not in names:
                raise ConfigError(
                    f"destination {destination.name}: there is no source {source} any more; "
                    "take it out there first"
                )
