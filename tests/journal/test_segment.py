"""One file of the journal: what was written comes back, and nothing else does."""

import struct
from pathlib import Path

import pytest

from collector.journal.base import Frame
from collector.journal.segment import (
    HEAD,
    READ_BYTES,
    Header,
    Segment,
    encode_header,
    encode_records,
    path_of,
)

from .harness import as_frame, flip, frame

MARK = b"\xffabc"
HEADER = Header("some id", 0, MARK, 7, 1, {"web": 12})


def write(directory: Path, *frames: Frame) -> tuple[Path, list[int]]:
    """A file with *frames* from position 7 on, and where each of them begins and the last ends."""
    path = path_of(directory, HEADER.first)
    head = encode_header(HEADER)
    path.write_bytes(head + encode_records(frames, HEADER.first, 1, MARK))
    offsets = [len(head)]
    for one in frames:
        offsets.append(offsets[-1] + HEAD + len(one.source.encode()) + len(one.data))
    return path, offsets


def read(path: Path) -> dict[int, Frame]:
    segment = Segment.load(path)
    segment.mark = MARK  # known from elsewhere when the header is damaged
    return {record.position: as_frame(record) for record, _ in segment.records(segment.data_start)}


def numbered(frames: list[Frame]) -> dict[int, Frame]:
    return dict(enumerate(frames, HEADER.first))


@pytest.mark.parametrize("size", [0, 1, 700, READ_BYTES - HEAD, READ_BYTES, 3 * READ_BYTES])
def test_a_record_comes_back_as_it_was_written(tmp_path: Path, size: int) -> None:
    frames = [
        frame(1, size, "a", 0),
        frame(2, 5, "Grüße, 世界", 2**32 - 1),
        frame(3, size, "", 7),
        frame(4, size, "s" * 65_535, 1),
    ]
    path, _ = write(tmp_path, *frames)
    assert read(path) == numbered(frames)
    assert Segment.load(path).header == HEADER


def test_a_flipped_bit_loses_one_record_at_most_wherever_it_is(tmp_path: Path) -> None:
    frames = [frame(1, 9, "web"), frame(2, 30, "shop", 3), frame(3, 0, ""), frame(4, 3, "web")]
    path, offsets = write(tmp_path, *frames)
    whole = path.read_bytes()
    for offset in range(len(whole)):
        hit = next((n for n, end in enumerate(offsets[1:]) if offset < end), None)
        expected = numbered(frames)
        if offset >= offsets[0]:
            assert hit is not None
            del expected[HEADER.first + hit]
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << bit
            path.write_bytes(damaged)
            assert read(path) == expected, (offset, bit)
            assert (Segment.load(path).header is None) == (offset < offsets[0])


def test_a_file_may_end_anywhere(tmp_path: Path) -> None:
    frames = [frame(1, 9), frame(2, 30, "shop", 3), frame(3, 0)]
    path, offsets = write(tmp_path, *frames)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        intact = sum(end <= size for end in offsets[1:])
        assert read(path) == numbered(frames[:intact]), size


@pytest.mark.parametrize("hole", [bytes(500), b"\xff" * 500, MARK * 125, MARK + b"\xff" * 496])
@pytest.mark.parametrize("size", [10, 200_000])
def test_garbage_between_records_is_passed_over(tmp_path: Path, hole: bytes, size: int) -> None:
    frames = [frame(n, size) for n in range(5)]
    path, offsets = write(tmp_path, *frames)
    whole = path.read_bytes()
    for at in offsets:
        path.write_bytes(whole[:at] + hole + whole[at:])
        assert read(path) == numbered(frames), at


def test_garbage_longer_than_one_read_is_passed_over(tmp_path: Path) -> None:
    frames = [frame(n, 5000) for n in range(200)]
    path, offsets = write(tmp_path, *frames)
    whole = bytearray(path.read_bytes())
    start, end = offsets[20] + 1, offsets[180] - 1
    for filler in (b"\0", b"\xff", MARK):
        whole[start:end] = (filler * (end - start))[: end - start]
        path.write_bytes(whole)
        kept = {n + HEADER.first: one for n, one in enumerate(frames) if not 20 <= n < 180}
        assert read(path) == kept


def test_a_record_that_begins_where_a_read_ends_is_found_behind_damage(tmp_path: Path) -> None:
    head = len(encode_header(HEADER))
    for begins in range(head + READ_BYTES - HEAD, head + READ_BYTES + 3):
        frames = [frame(1, begins - head - HEAD - 3), frame(2), frame(3)]
        path, offsets = write(tmp_path, *frames)
        assert offsets[1] == begins
        flip(path, offsets[0])
        assert read(path) == {8: frames[1], 9: frames[2]}, begins


@pytest.mark.parametrize("length", [0, 1, 1000, 150_000, 900_000, 2**31, 2**32 - 1])
@pytest.mark.parametrize("hit", [0, 3, 9])
def test_a_false_length_loses_its_record_alone(tmp_path: Path, length: int, hit: int) -> None:
    frames = [frame(n, 100_000) for n in range(10)]
    path, offsets = write(tmp_path, *frames)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, offsets[hit] + 8, length)
    path.write_bytes(data)
    expected = numbered(frames)
    del expected[HEADER.first + hit]
    assert read(path) == expected


def test_every_length_may_be_false(tmp_path: Path) -> None:
    frames = [frame(n, 100) for n in range(2000)]
    path, offsets = write(tmp_path, *frames)
    data = bytearray(path.read_bytes())
    for at in offsets[:-2]:
        struct.pack_into("<I", data, at + 8, len(data) - at - HEAD)
    path.write_bytes(data)
    assert list(read(path)) == [HEADER.first + len(frames) - 1]


def test_a_record_inside_the_data_of_a_damaged_one_is_not_believed(tmp_path: Path) -> None:
    forged = encode_records([frame(99)], 8, 1, b"\xffxyz")  # its sender cannot know the mark
    frames = [frame(1), Frame(b"x" + forged, "web", 1), frame(3)]
    path, offsets = write(tmp_path, *frames)
    path.write_bytes(path.read_bytes())
    data = bytearray(path.read_bytes())
    data[offsets[1] + HEAD + 3] ^= 1  # the x
    path.write_bytes(data)
    assert read(path) == {7: frames[0], 9: frames[2]}


def test_a_file_under_another_name_is_not_taken_for_that_one(tmp_path: Path) -> None:
    path, _ = write(tmp_path, frame(1))
    other = path.rename(path_of(tmp_path, 8))
    assert Segment.load(other).header is None


def test_a_file_that_is_gone_or_cut_while_it_is_read_ends_there(tmp_path: Path) -> None:
    frames = [frame(n, 100_000) for n in range(20)]
    path, offsets = write(tmp_path, *frames)
    segment = Segment.load(path)
    reading = segment.records(segment.data_start)
    next(reading)
    with path.open("r+b") as file:
        file.truncate(offsets[10] + 5)
    assert [record.position for record, _ in reading] == list(range(8, 17))
    path.unlink()
    assert list(segment.records(segment.data_start)) == []
