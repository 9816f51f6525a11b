"""
Destination: the Conversions API, one request a batch.

    POST {base_url}/{version}/{dataset_id}/events   {"data": [event, …], …}

Meta processes a request as a whole or not at all: one event that is too old, and the other 999
are refused with it. So each event is checked in `map`, and once more for its age when it is sent;
what Meta refuses all the same the courier finds by bisection.

Limits   1,000 events a request; events at most 7 days old, of physical stores 62, and none from
         the future.
Resends  Meta keeps the first of the events with one name and one id within 48 hours, from here or
         from the page's pixel, so that an answer that never came is no reason not to send again.
Errors   those of `verdict.py`; Refused too_old and in_future of a single event.
Source   Meta, "Conversions API: Using the API", "Handling Duplicate Pixel and Conversions API
         Events"
"""

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import msgspec

from collector.destinations.base import TAKEN, Destination, Mail, Mapped, Outcome, Parcel, Refused
from collector.destinations.meta.event import names_of, server_event
from collector.destinations.meta.person import INTEGRATIONS
from collector.destinations.meta.settings import MetaSettings
from collector.destinations.meta.verdict import judge_answer
from collector.destinations.outbound import Outbound

DAY_SECONDS: Final = 86_400.0
AGE_SECONDS_MAX: Final = 7 * DAY_SECONDS
STORE_AGE_SECONDS_MAX: Final = 62 * DAY_SECONDS
FUTURE_SECONDS_MAX: Final = 60.0

_encode = msgspec.json.Encoder().encode


class _Sent(msgspec.Struct):
    """What has to hold of an event at the moment it is sent."""

    event_name: str
    event_time: int
    event_id: str
    action_source: str


_decode = msgspec.json.Decoder(_Sent).decode


class Meta(Destination[MetaSettings]):
    """One dataset at Meta. Its payloads are the encoded events."""

    types: ClassVar[frozenset[str]] = frozenset({"track", "page", "screen"})
    integrations: ClassVar[tuple[str, ...]] = INTEGRATIONS
    ordered: ClassVar[bool] = False
    reads_person: ClassVar[bool] = True

    def __init__(
        self, settings: MetaSettings, http: Outbound, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(settings, http)
        self._names = names_of(settings)
        self._now = now
        self._secrets = settings.secret_values()
        self._headers = {
            "Authorization": f"Bearer {settings.access_token}",
            "Content-Type": "application/json",
        }
        self._url = (
            f"{settings.base_url.rstrip('/')}/{settings.version}/{settings.dataset_id}/events"
        )
        if settings.app_secret:
            self._url += f"?appsecret_proof={_proof(settings)}"
        self._end = _end(settings, test=False)
        self._test_end = _end(settings, test=True)

    def map(self, mail: Mail) -> Mapped:
        """The server event for *mail*, encoded."""
        found = server_event(mail, self.settings, self._names)
        if not isinstance(found, dict):
            return found
        payload = _encode(found)
        return Parcel(
            key=f"{found['event_name']}:{found['event_id']}",
            payload=payload,
            size=len(payload) + 1,  # and its comma
            age_seconds_max=_age_max(found["action_source"]),
        )

    async def send(self, batch: Sequence[Parcel], *, test: bool = False) -> Sequence[Outcome]:
        """Send *batch* in one request, without what would have all of it refused."""
        if test and not self.settings.test_event_code:
            hint = "set `test_event_code` to the code that Events Manager shows under Test Events"
            return [Refused("no_test_mode", hint)] * len(batch)
        now = self._now()
        refusals = [self._unfit(parcel, now) for parcel in batch]
        events = [
            parcel.payload
            for parcel, refusal in zip(batch, refusals, strict=True)
            if refusal is None
        ]
        if events:
            end = self._test_end if test else self._end
            body = b'{"data":[' + b",".join(events) + end
            answer = await self.http.send("POST", self._url, body, self._headers)
            judge_answer(answer, len(events), self._secrets)
        return [refusal or TAKEN for refusal in refusals]

    def _unfit(self, parcel: Parcel, now: float) -> Refused | None:
        """Why Meta would refuse *parcel* now, and with it the whole request."""
        sent = _decode(parcel.payload)
        # It has to be young enough when it arrives, which takes as long as the timeout at most.
        oldest = _age_max(sent.action_source) - self.settings.timeout_seconds
        if now - sent.event_time > oldest:
            return Refused("too_old", "Meta takes events of 7 days, of physical stores of 62")
        if sent.event_time - now > FUTURE_SECONDS_MAX:
            return Refused("in_future", "its time is to come: set the sender's clock")
        return None


def _age_max(action_source: str) -> float:
    return STORE_AGE_SECONDS_MAX if action_source == "physical_store" else AGE_SECONDS_MAX


def _proof(settings: MetaSettings) -> str:
    """What shows that whoever has the token has the app's secret too."""
    key, token = settings.app_secret.encode(), settings.access_token.encode()
    return hmac.new(key, token, hashlib.sha256).hexdigest()


def _end(settings: MetaSettings, *, test: bool) -> bytes:
    """What follows the events in a request."""
    members: dict[str, Any] = {
        "partner_agent": settings.partner_agent,
        "upload_tag": settings.upload_tag,
        "test_event_code": settings.test_event_code if test else "",
    }
    given = {key: value for key, value in members.items() if value}
    return b"]," + _encode(given)[1:] if given else b"]}"
