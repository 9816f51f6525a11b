"""
Errors: every deliberate error, grouped by whose move it is.

    CollectorError(code, detail)
    ├─ ConfigError     operator   fix the file, start again                 exit status 2
    ├─ BadRequest      sender     change the request; do not resend as is   4xx
    ├─ Busy            sender     resend the same request later             429, 503
    ├─ JournalError    operator   disk full or damaged                      503 meanwhile
    ├─ Unreachable     nobody     Postgres or a destination is away; its caller waits
    └─ DeliveryError              a destination does not take what it was sent
       ├─ Denied         operator  its credentials are refused; it is paused
       ├─ Unacceptable   operator  something in the batch is refused; it is bisected
       ├─ TooLarge       nobody    the batch is too large; it is halved
       └─ Ambiguous      nobody    whether it arrived is unknown

`code` is a fixed word (`bad_gzip`): it is the JSON body's code, the metric label and the log
field, so it never carries data. `detail` is for people and ends with what to do.
"""


class CollectorError(Exception):
    """
    A deliberate error: *code* for machines, *detail* for people.

    `beside` is what else its answer says, to a sender that looks for it there.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.beside: dict[str, object] = {}


class ConfigError(CollectorError):
    """The settings cannot be used; the operator fixes them and starts again."""

    def __init__(self, detail: str) -> None:
        super().__init__("bad_config", detail)


class BadRequest(CollectorError):
    """The sender must change the request: resending it as it is cannot succeed."""

    def __init__(self, code: str, detail: str, status: int = 400) -> None:
        super().__init__(code, detail)
        self.status = status


class Busy(CollectorError):
    """The sender should resend the same request after *retry_after_seconds*."""

    def __init__(
        self, code: str, detail: str, *, retry_after_seconds: int = 5, status: int = 503
    ) -> None:
        super().__init__(code, detail)
        self.retry_after_seconds = retry_after_seconds
        self.status = status


class JournalError(CollectorError):
    """The journal cannot take frames now: its disk is full, damaged or read-only."""


class Unreachable(CollectorError):
    """
    Postgres or a destination is away; whoever called waits and tries again.

    Nothing of what was to be sent has arrived. *seconds* is how long to wait, where it said so.
    """

    def __init__(self, code: str, detail: str, *, seconds: float | None = None) -> None:
        super().__init__(code, detail)
        self.seconds = seconds


class DeliveryError(CollectorError):
    """A destination does not take what it was sent."""


class Denied(DeliveryError):
    """The destination refuses our credentials, or the account: nobody's event is at fault."""


class Unacceptable(DeliveryError):
    """The destination refuses the batch for something in it, and does not say for what."""


class TooLarge(DeliveryError):
    """The destination finds the batch too large."""

    def __init__(self, detail: str) -> None:
        super().__init__("too_large", detail)


class Ambiguous(DeliveryError):
    """The batch was sent, and whether it arrived is unknown."""

    def __init__(self, code: str, detail: str, *, seconds: float | None = None) -> None:
        super().__init__(code, detail)
        self.seconds = seconds
