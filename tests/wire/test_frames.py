from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import Digest
from mesh.core.limits import LARGE_BLOB
from mesh.errors import Misbehaved, Unreachable
from mesh.wire.frames import HEADER_SIZE, Frame, FrameReader, Kind, end, frame
from tests.oracles import quick

NAME = Digest(bytes(range(32)))

digests = st.builds(Digest, st.binary(min_size=32, max_size=32))
lengths = st.integers(0, 2**64 - 1)
blobs = st.builds(
    lambda digest, data: Frame(Kind.BLOB, digest, len(data), data),
    digests,
    st.binary(max_size=200),
)
others = st.builds(
    lambda kind, digest, length: Frame(kind, digest, length),
    st.sampled_from([Kind.ABSENT, Kind.LARGE, Kind.LATER]),
    digests,
    lengths,
)
frames = st.lists(blobs | others, max_size=8)


def body(sent: Sequence[Frame]) -> bytes:
    """What a sender writes."""
    pieces = [frame(each.kind, each.digest, each.length) + each.data for each in sent]
    return b"".join(pieces) + end(len(sent))


def read(reader: FrameReader, data: bytes, cuts: Sequence[int]) -> list[Frame]:
    """What a reader makes of `data` in chunks that end at `cuts`."""
    got: list[Frame] = []
    for start, stop in pairwise([0, *cuts, len(data)]):
        got += reader.feed(data[start:stop])
    return got


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Frame], bytes, list[int]]:
    """Frames, their bytes, and places to cut them at, often beside the edge of a header."""
    sent = draw(frames)
    data = body(sent)
    edges = [0]
    for each in sent:
        edges += [edges[-1] + HEADER_SIZE, edges[-1] + HEADER_SIZE + len(each.data)]
    near = st.builds(lambda edge, off: edge + off, st.sampled_from(edges), st.integers(-1, 1))
    cuts = draw(st.lists(near | st.integers(0, len(data)), max_size=10))
    return sent, data, sorted(min(max(cut, 0), len(data)) for cut in cuts)


# --- frames that are whole -------------------------------------------------------------------


@quick
@given(streams())
def test_frames_are_the_same_wherever_they_are_cut(
    stream: tuple[list[Frame], bytes, list[int]],
) -> None:
    sent, data, cuts = stream
    reader = FrameReader()
    assert read(reader, data, cuts) == sent
    assert reader.ended
    reader.finish()


@quick
@given(frames)
def test_frames_come_out_of_single_bytes(sent: list[Frame]) -> None:
    data = body(sent)
    reader = FrameReader()
    assert read(reader, data, range(1, len(data))) == sent
    reader.finish()


def test_a_frame_comes_out_with_its_last_byte() -> None:
    data = frame(Kind.BLOB, NAME, 3) + b"abc"
    reader = FrameReader()
    assert [len(reader.feed(data[at : at + 1])) for at in range(len(data))] == [0] * 43 + [1]
    assert reader.feed(frame(Kind.ABSENT, NAME)) == [Frame(Kind.ABSENT, NAME, 0)]
    assert not reader.ended


def test_a_header_is_as_the_protocol_says() -> None:
    assert HEADER_SIZE == 41
    assert frame(Kind.LARGE, NAME, 2**40) == b"\x03" + NAME + struct.pack(">Q", 2**40)
    assert frame(Kind.LATER, NAME) == b"\x04" + NAME + bytes(8)
    assert end(258) == bytes(33) + b"\0\0\0\0\0\0\x01\x02"
    assert [int(kind) for kind in Kind] == [0, 1, 2, 3, 4]


def test_frames_do_not_change_when_the_reader_goes_on() -> None:
    reader = FrameReader()
    (first,) = reader.feed(frame(Kind.BLOB, NAME, 3) + b"abc")
    reader.feed(frame(Kind.BLOB, NAME, 3) + b"xyz")
    assert first == Frame(Kind.BLOB, NAME, 3, b"abc")
    assert type(first.data) is bytes
    assert type(first.digest) is bytes


# --- limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 1000, LARGE_BLOB - 1])
def test_the_largest_frame_is_taken_and_the_next_larger_refused(limit: int) -> None:
    data = bytes(limit)
    reader = FrameReader(limit)
    assert reader.feed(frame(Kind.BLOB, NAME, limit) + data)[0].data == data
    with pytest.raises(Misbehaved, match=f"a frame of {limit + 1} bytes; the limit is {limit}"):
        FrameReader(limit).feed(frame(Kind.BLOB, NAME, limit + 1))


@pytest.mark.parametrize("length", [LARGE_BLOB, 2**32, 2**63, 2**64 - 1])
def test_a_length_is_refused_before_a_byte_of_its_body_has_come(length: int) -> None:
    header = frame(Kind.BLOB, NAME, length)
    reader = FrameReader()
    assert reader.feed(header[:-1]) == []
    with pytest.raises(Misbehaved, match="the limit is 4194303"):
        reader.feed(header[-1:])


def test_only_the_body_of_a_blob_is_limited() -> None:
    sent = [Frame(kind, NAME, 2**64 - 1) for kind in (Kind.ABSENT, Kind.LARGE, Kind.LATER)]
    assert FrameReader(10).feed(body(sent)) == sent


def test_what_has_been_read_is_not_kept() -> None:
    reader = FrameReader()
    blob = frame(Kind.BLOB, NAME, 50_000) + bytes(50_000)
    tracemalloc.start()
    for number in range(200):
        reader.feed(blob)
        reader.feed(frame(Kind.ABSENT, NAME)[: number % HEADER_SIZE])
        reader.feed(frame(Kind.ABSENT, NAME)[number % HEADER_SIZE :])
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2 * len(blob)
    assert most < 6 * len(blob)


# --- frames that are not ---------------------------------------------------------------------


@quick
@given(frames, st.data())
def test_a_stream_that_is_cut_anywhere_is_seen(sent: list[Frame], data: st.DataObject) -> None:
    whole = body(sent)
    cut = data.draw(st.integers(0, len(whole) - 1))
    reader = FrameReader()
    got = reader.feed(whole[:cut])
    assert got == sent[: len(got)]
    with pytest.raises(Unreachable, match=f"the batch was cut after {len(got)} blobs"):
        reader.finish()


@pytest.mark.parametrize("name", [NAME, b"\x00" * 31 + b"\x01"])
def test_an_end_mark_that_names_a_blob_is_refused(name: Digest) -> None:
    reader = FrameReader()
    with pytest.raises(Misbehaved, match="the end mark names a blob"):
        reader.feed(frame(Kind.END, name, 0))
    assert not reader.ended


@quick
@given(frames, lengths)
def test_an_end_mark_that_counts_otherwise_is_refused(sent: list[Frame], count: int) -> None:
    data = body(sent)[:-HEADER_SIZE] + end(count)
    reader = FrameReader()
    if count == len(sent):
        assert reader.feed(data) == sent
        return
    with pytest.raises(Misbehaved, match=f"counts {count} frames, {len(sent)} came"):
        reader.feed(data)
    with pytest.raises(Unreachable):
        reader.finish()


@quick
@given(frames, st.integers(5, 255), digests, lengths)
def test_a_kind_that_is_unknown_is_refused(
    sent: list[Frame], kind: int, digest: Digest, length: int
) -> None:
    header = struct.pack(">B32sQ", kind, digest, length)
    reader = FrameReader()
    reader.feed(body(sent)[:-HEADER_SIZE])
    with pytest.raises(Misbehaved, match=f"unknown kind {kind}"):
        reader.feed(header)


@quick
@given(frames, st.binary(min_size=1, max_size=100) | frames.map(body), st.booleans())
def test_bytes_after_the_end_are_refused(sent: list[Frame], rest: bytes, apart: bool) -> None:
    reader = FrameReader()
    chunks = [body(sent), rest] if apart else [body(sent) + rest]
    for chunk in chunks[:-1]:
        reader.feed(chunk)
    with pytest.raises(Misbehaved, match="goes on after its end mark"):
        reader.feed(chunks[-1])


def test_nothing_after_the_end_is_no_fault() -> None:
    reader = FrameReader()
    assert reader.feed(end(0)) == []
    assert reader.feed(b"") == []
    reader.finish()


@quick
@given(st.lists(st.binary(max_size=120), max_size=8), st.integers(0, 300))
def test_any_bytes_are_frames_or_a_peers_fault(chunks: list[bytes], limit: int) -> None:
    reader = FrameReader(limit)
    got: list[Frame] = []
    try:
        for chunk in chunks:
            got += reader.feed(chunk)
        reader.finish()
    except (Misbehaved, Unreachable):
        pass
    for each in got:
        assert each.kind in Kind
        assert len(each.digest) == 32
        assert len(each.data) == (each.length if each.kind == Kind.BLOB else 0) <= limit


@quick
@given(frames, st.integers(0, 2**32), st.integers(1, 255))
def test_a_changed_byte_gives_no_frames_that_the_hash_would_not_catch(
    sent: list[Frame], at: int, change: int
) -> None:
    data = bytearray(body(sent))
    data[at % len(data)] ^= change
    reader = FrameReader()
    got: list[Frame] = []
    try:
        got = reader.feed(bytes(data))
        reader.finish()
    except (Misbehaved, Unreachable):
        return
    # Nothing protects a digest, a length that is no body's, or the bytes; at most one is changed.
    assert len(got) == len(sent)
    assert sum(one != other for one, other in zip(got, sent, strict=True)) <= 1
