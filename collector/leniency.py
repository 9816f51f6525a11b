"""
Leniency: JSON as real SDKs send it, read without losing the neighbours of what is broken.

    a body ──msgspec──▶ accepted ──doubtful?──▶ no: kept as it came
              │                     └─────────▶ yes: repair each event
              └───────▶ refused ──▶ one event: repair; a batch: split, then repair each element

Shapes   bytes of JSON in, bytes of JSON out; nothing here knows an event.
Units    offsets and sizes in bytes; depth in brackets that are open at once.
Errors   Unreadable: bad_json, too_deep, number_out_of_range, too_many_events.
Source   RFC 8259; PostgreSQL, "JSON Types" and "Numeric Types"; how bit masks tell structure from
         strings: Langdale and Lemire, "Parsing Gigabytes of JSON per Second"
"""

import json
import math
import re
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.errors import CollectorError

DIGITS_MAX = 400  # of a number written out in full; the largest float64 has 309
MEMBERS_MAX = 1_000  # of the object around a batch; senders write about five
MASKS_PAY_FROM_BYTES = 32_000  # below this a regular expression beats thirty calls into numpy
STRIDE = 66
BLOCK = 1 << 18  # bytes of which depths are found at once; in one go they take ten times the text
DEEPEST = 32_767

BOM = b"\xef\xbb\xbf"
SPACE = b" \t\n\r"
BACKSLASH, QUOTE, COMMA, NINE = b'\\",9'
OPENER, CLOSER, LETTER_E = b"{}e"  # |32 turns [ into {, ] into } and E into e

# No group is repeated possessively: before 3.11.5 re gets that wrong.
NUL = re.compile(rb"\\u0000")  # takes half as long as `in`
SAMPLED_RUN = re.compile(rb"\d{3,}")
LONG_EXPONENT = re.compile(rb"e[0-9+-]\d\d(?:(?<=\d\d\d)|\d)\d*+\s*+(?:[,}\]]|\Z)")
KEY = re.compile(rb'\s*+("[^"]*+")\s*+:\s*+')
UNSTORABLE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])|[\0\ud800-\udfff]")
ESCAPE = re.compile(r"(\\u0000|\0)|(\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|(\\u[dD][89a-fA-F]..)|\\.")

Text = NDArray[np.uint8]
Flags = NDArray[np.bool_]  # one for each byte of a text
Bits = NDArray[np.uint64]  # the same, packed


class Unreadable(CollectorError):
    """This JSON has no form that jsonb keeps and everybody can read."""


ADVICE = {
    "bad_json": "send valid JSON",
    "too_deep": "send it flatter",
    "number_out_of_range": "send it as text",
    "too_many_events": "send smaller batches",
}


class Envelope(msgspec.Struct, frozen=True):
    """A batch body, cut but not read: *elements* are those of its list, None if it has none."""

    members: dict[str, bytes]
    elements: list[bytes] | None


def doubtful(body: bytes, *, depth_max: int) -> bool:
    """
    Say whether *body* may hold what msgspec accepts but jsonb refuses or nobody could read.

    Never a wrong no for JSON: NUL, invalid UTF-8, nesting deeper than *depth_max*, a number outside
    float64 or of more than 400 digits are all seen. A wrong yes is rare. Any bytes may be asked
    about; asking once about many bodies joined by commas is cheaper than asking about each.
    """
    if not body.isascii() and not _is_utf8(body):
        return True
    if BACKSLASH in body and NUL.search(body):
        return True
    # With fewer than 200 digits before the point, fewer than 200 after it and an exponent of two
    # digits a number keeps within both bounds. Of 200 digits in a row at least three are sampled.
    if SAMPLED_RUN.search(body[::STRIDE]) and _has_long_run(body):
        return True
    if len(body) < MASKS_PAY_FROM_BYTES:
        folded = body.replace(b"E", b"e").replace(b"[", b"{")
        if folded.count(b"{") <= depth_max:
            return LONG_EXPONENT.search(folded) is not None
    text, outside = _scan(body)
    folds = text | 32
    opened = np.bitwise_count(_pack(folds == OPENER) & outside).astype(np.int32)
    closed = np.bitwise_count(_pack(folds == CLOSER) & outside)
    if (np.cumsum(opened - closed) + closed).max() > depth_max:  # a word opens before it closes
        return True
    exponents = _pack((text[:-1] <= NINE) & (folds[1:] == LETTER_E)) & outside
    return bool(exponents.any()) and LONG_EXPONENT.search(body.replace(b"E", b"e")) is not None


def repair(body: bytes, *, depth_max: int) -> bytes:
    """
    Read one JSON value leniently and return it as strict JSON that jsonb keeps.

    NaN and Infinity become null; lone surrogates and invalid UTF-8 become U+FFFD; control
    characters are escaped; NUL and a byte order mark are dropped; of equal keys the last wins.
    Numbers keep their literal text. Raises Unreadable for everything else that is not JSON.
    """
    if body.count(b"{") + body.count(b"[") > depth_max:
        text, outside = _scan(body)
        deep = _depths(text, _unpack(outside)) > depth_max
        if deep.any():
            raise _unreadable("too_deep", f"nested deeper than {depth_max}", deep.argmax())
    start = len(BOM) if body.startswith(BOM) else 0
    json_text = body[start:].decode("utf-8", "surrogateescape")
    try:
        value = LENIENT.decode(json_text)
        if UNSTORABLE.search(json_text):  # it is valid by now: every backslash begins an escape
            value = LENIENT.decode(ESCAPE.sub(_mend, body[start:].decode("utf-8", "replace")))
        return msgspec.json.encode(value)
    except json.JSONDecodeError as exc:
        at = start + len(json_text[: exc.pos].encode("utf-8", "surrogateescape"))
        raise _unreadable("bad_json", exc.msg, at) from exc
    except OverflowError as exc:
        number = str(exc)
        text, outside = _scan(body)
        at = np.where(_unpack(outside), text, 32).tobytes().find(number.encode())
        raise _unreadable(
            "number_out_of_range", f"{number[:30]} too large or too long", at
        ) from exc
    except RecursionError as exc:
        raise _unreadable("too_deep", "nested deeper than this Python can read", start) from exc


def split(body: bytes, *, elements_max: int, listed: str = "batch") -> Envelope:
    """
    Cut a batch that msgspec refused into its members and the elements of *listed*, as they came.

    What stands in one element never costs another, as long as its strings end and its brackets
    pair up. Raises Unreadable when pieces cannot be told apart, or are more than *elements_max*.
    """
    start = len(body) - len(body.removeprefix(BOM).lstrip(SPACE))
    if body[start : start + 1] != b"{":
        raise _unreadable("bad_json", "no object", start)
    text, outside = _scan(body)
    plain = _unpack(outside)
    depths = _depths(text, plain)
    commas = (text == COMMA) & plain
    closed = depths[start : len(body)] <= 0
    if not closed.any():
        raise _unreadable("bad_json", "a bracket or quote is never closed", len(body))
    end = start + int(closed.argmax())
    if body[end + 1 :].strip(SPACE):
        raise _unreadable("bad_json", "text after the object", end + 1)

    cuts = commas & (depths == 1)
    if np.count_nonzero(cuts) >= MEMBERS_MAX:
        raise _unreadable("bad_json", f"more than {MEMBERS_MAX} members", start)
    masked = text.tobytes()  # the body, but each quote left in it begins or ends a string
    values: dict[str, tuple[int, int]] = {}
    for before, after in pairwise([start, *np.flatnonzero(cuts).tolist(), end]):
        if key := KEY.match(masked, before + 1, after):
            name = msgspec.json.decode(repair(body[slice(*key.span(1))], depth_max=0), type=str)
            values[name] = key.end(), after
        elif body[before + 1 : after].strip(SPACE):
            raise _unreadable("bad_json", "no key", before + 1)

    elements: list[bytes] | None = None
    first, after = values.get(listed, (end, end))
    if body[first : first + 1] == b"[":
        del values[listed]
        last = first + int((depths[first:after] < 2).argmax())
        if body[last:after].rstrip(SPACE) != b"]":
            raise _unreadable("bad_json", f"no end of `{listed}`", last)
        cuts = commas[first:last] & (depths[first:last] == 2)
        if np.count_nonzero(cuts) >= elements_max:
            raise _unreadable("too_many_events", f"more than {elements_max} events", first)
        edges = [first, *(first + np.flatnonzero(cuts)).tolist(), last]
        pieces = (body[before + 1 : after].strip(SPACE) for before, after in pairwise(edges))
        elements = [piece for piece in pieces if piece]
    return Envelope({name: body[i:j].rstrip(SPACE) for name, (i, j) in values.items()}, elements)


def _number(literal: str) -> int | msgspec.Raw:
    """Keep *literal* as it is written; raise OverflowError for what is too large or too long."""
    if len(literal) < 16 and literal.isdigit():
        return int(literal)
    if len(literal) < 200 and "e" not in literal and "E" not in literal:
        return msgspec.Raw(literal)
    mantissa, _, exponent = literal.lower().removeprefix("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    shift = int(exponent or 0) if len(exponent) < 9 else DIGITS_MAX
    digits = max(len(whole) + shift, 1) + max(len(fraction) - shift, 0)
    if digits > DIGITS_MAX or math.isinf(float(literal)):
        raise OverflowError(literal)
    return msgspec.Raw(literal)


LENIENT = json.JSONDecoder(
    strict=False, parse_int=_number, parse_float=_number, parse_constant=lambda _: None
)


def _mend(escape: re.Match[str]) -> str:
    """Rewrite one escape of a JSON string, or a raw NUL in it, if it stands for no character."""
    nul, _pair, lone = escape.groups()
    return "" if nul else "\ufffd" if lone else escape[0]


def _has_long_run(body: bytes) -> bool:
    """Say whether more than STRIDE digits stand in a row; of 200 it always does."""
    return any(
        body[at : at + STRIDE].isdigit()
        for run in SAMPLED_RUN.finditer(body[::STRIDE])
        for at in range(run.start() * STRIDE, run.end() * STRIDE, STRIDE)
    )


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _scan(body: bytes) -> tuple[Text, Bits]:
    """Return *body* without escaped quotes, padded to words, and which of it is outside strings."""
    text = np.frombuffer(bytearray(body) + bytes(64 - len(body) % 64), np.uint8)
    if BACKSLASH in body:
        slashes = text[:-1] == BACKSLASH
        if (slashes[1:] & slashes[:-1]).any():
            return _scan(body.replace(b"\\\\", b"  "))
        np.putmask(text[1:], slashes & (text[1:] == QUOTE), 32)
    inside = _pack(text == QUOTE)
    for distance in (1, 2, 4, 8, 16, 32):  # each bit becomes the parity of the quotes up to it
        inside ^= inside << np.uint64(distance)
    inside[1:] ^= -np.bitwise_xor.accumulate(inside >> np.uint64(63))[:-1]
    return text, ~inside


def _pack(flags: Flags) -> Bits:
    return np.packbits(flags, bitorder="little").view("<u8")


def _unpack(bits: Bits) -> Flags:
    return np.unpackbits(bits.view(np.uint8), bitorder="little").view(np.bool_)


def _depths(text: Text, plain: Flags) -> NDArray[np.int16]:
    """Return how many brackets are open after each byte; from 32,767 on it is that many."""
    depths = np.empty(len(text), np.int16)
    level = 0
    for start in range(0, len(text), BLOCK):
        block = slice(start, start + BLOCK)
        folds, outside = text[block] | 32, plain[block]
        opened, closed = (((folds == b) & outside).view(np.int8) for b in (OPENER, CLOSER))
        levels = np.cumsum(opened - closed, dtype=np.int32) + level
        depths[block] = np.clip(levels, -DEEPEST, DEEPEST)
        level = int(levels[-1])
    return depths


def _unreadable(code: str, what: str, at: int | np.int64) -> Unreadable:
    return Unreadable(code, f"{what} at byte {at}: {ADVICE[code]}")
