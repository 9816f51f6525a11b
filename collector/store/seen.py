"""
Seen: message ids as they are remembered.

Shapes   an id is the 16-byte xxh3 hash of the message id's UTF-8 text: equal texts have equal
         ids, and among 200 million texts two have one id with a chance of 6e-23. It need not
         withstand attack: who knows a message id could as well send it.
         A history is a running digest over all ids in the order of `seq`.
         A manifest file is a CRC32C and msgpack.
"""

import msgspec
import xxhash
from google_crc32c import value as crc32c

ID_BYTES = 16
NO_HISTORY = bytes(ID_BYTES)

id_of = xxhash.xxh3_128_digest


def history_of(before: bytes, ids: bytes) -> bytes:
    """The digest of the history *before* that *ids* were added to."""
    return xxhash.xxh3_128_digest(before + ids)


class RunFacts(msgspec.Struct, frozen=True):
    """What is known of a sorted file of ids (runs.py)."""

    file: str
    level: int
    count: int
    first_seq: int
    last_seq: int
    filter_bits: int
    bucket_log: int
    hashes_crc: int
    offsets_crc: int
    tail_crc: int  # of filter and bucket starts


class Manifest(msgspec.Struct, frozen=True):
    """Which files make up the index, and how far it has read."""

    last_seq: int
    history: bytes
    runs: list[RunFacts]


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest file."""
    data = msgspec.msgpack.encode(manifest)
    checksum: int = crc32c(data)
    return checksum.to_bytes(4, "little") + data


def decode_manifest(data: bytes) -> Manifest:
    """The manifest in *data*; ValueError if it is not as it was written."""
    if int.from_bytes(data[:4], "little") != crc32c(data[4:]):
        raise ValueError("the manifest is damaged")
    return msgspec.msgpack.decode(data[4:], type=Manifest)
