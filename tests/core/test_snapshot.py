"""The snapshot: canonical, short, and nothing else passes for one."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import Digest, digest_of
from mesh.core.snapshot import (
    BEGINNING,
    MAX_BYTES,
    MAX_COUNT,
    MIN_BYTES,
    Snapshot,
    decode,
    encode,
    is_time,
    recognised,
)
from mesh.errors import InputError

DOCS = Path(__file__).parents[2] / "docs" / "manifest.md"

ONE = Snapshot(
    manifest=digest_of(b"hello"),
    host="box",
    path=b"/home/ann/photos",
    time="2026-11-30T21:22:05.123Z",
    files=2,
    bytes=12,
)

texts = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=40)
snapshots = st.builds(
    Snapshot,
    manifest=st.binary(min_size=32, max_size=32).map(Digest),
    host=texts,
    path=st.binary(max_size=60).map(lambda rest: b"/" + rest.replace(b"\0", b"")),
    time=st.datetimes().map(lambda at: at.isoformat(timespec="milliseconds") + "Z"),
    files=st.integers(0, MAX_COUNT),
    bytes=st.integers(0, MAX_COUNT),
    tag=st.none() | texts,
)


def as_json(**changes: object) -> bytes:
    """What the standard library makes of the same format."""
    value: dict[str, object] = {
        "mesh": "snapshot", "version": 1, "manifest": digest_of(b"hello").hex(), "host": "box",
        "path": "/home/ann/photos", "time": "2026-11-30T21:22:05.123Z", "files": 2, "bytes": 12,
    }  # fmt: skip
    value = {key: each for key, each in (value | changes).items() if each is not None}
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


@given(snapshots)
def test_a_snapshot_survives_its_encoding(snapshot: Snapshot) -> None:
    data = encode(snapshot)
    assert decode(data) == snapshot
    assert recognised(data) == snapshot
    assert data.startswith(BEGINNING)
    assert MIN_BYTES <= len(data) <= MAX_BYTES


@given(snapshots, st.data())
def test_any_other_bytes_are_none_or_another_one(snapshot: Snapshot, draw: st.DataObject) -> None:
    """Whatever decodes is exactly what encoding gives: there is no second spelling."""
    data = bytearray(encode(snapshot))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at : at + draw.draw(st.integers(0, 2))] = draw.draw(st.binary(max_size=3))
    found = recognised(bytes(data))
    assert found is None or encode(found) == bytes(data)


@given(st.binary(max_size=400).map(lambda rest: BEGINNING + rest))
def test_nonsense_that_begins_as_a_snapshot_is_none(data: bytes) -> None:
    assert recognised(data) is None


def test_it_is_the_json_that_others_write() -> None:
    assert encode(ONE) == as_json()
    assert encode(msgspec.structs.replace(ONE, tag="höliday")) == as_json(tag="höliday")
    assert encode(msgspec.structs.replace(ONE, path=b"/\xff")) == as_json(
        path=None, path_hex="2fff"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"mesh": "tree"},
        {"more": 1},
        {"host": ""},
        {"host": "a/b"},
        {"host": "a\0b"},
        {"host": "h" * 256},
        {"path": "photos"},
        {"path": ""},
        {"path": "/a\0b"},
        {"path_hex": "2f"},
        {"path": None, "path_hex": "2f61"},
        {"path": None, "path_hex": "2FFF"},
        {"path": None},
        {"tag": ""},
        {"tag": "t" * 256},
        {"files": -1},
        {"files": 2**63},
        {"bytes": 1.0},
        {"bytes": "1"},
        {"manifest": "0" * 63},
        {"manifest": "A" * 64},
        {"time": "2026-11-30T21:22:05Z"},
        {"time": "2026-11-30T21:22:05.123+00:00"},
        {"time": "2026-02-29T00:00:00.000Z"},
        {"time": "2026-11-30T21:22:60.000Z"},
        {"time": "२०२६-11-30T21:22:05.123Z"},
        {"path": "/" + "p" * MAX_BYTES},
    ],
    ids=repr,
)
def test_what_is_refused(changes: dict[str, object]) -> None:
    data = as_json(**changes)
    with pytest.raises(InputError):
        decode(data)
    assert recognised(data) is None


@pytest.mark.parametrize(
    "spelling",
    [
        lambda good: good[:-1],
        lambda good: good + b"\n",
        lambda good: good.replace(b":", b": ", 1),
        lambda good: good.replace(b'"box"', b'"\\u0062ox"'),
        lambda good: b'{"bytes":12,"files":2,' + good[1:],
        lambda good: b"\xef\xbb\xbf" + good,
    ],
)
def test_another_spelling_is_refused(spelling) -> None:  # type: ignore[no-untyped-def]
    assert recognised(as_json()) == ONE
    assert recognised(spelling(as_json())) is None


@pytest.mark.parametrize(
    "changes", [{"path": b"relative"}, {"host": "a\ud800"}, {"tag": ""}, {"time": "now"}]
)
def test_what_is_no_snapshot_is_not_encoded(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        encode(msgspec.structs.replace(ONE, **changes))  # type: ignore[arg-type]


@given(st.integers(1, 9999), st.integers(0, 13), st.integers(0, 32), st.integers(0, 60))
def test_times_are_those_of_the_calendar(year: int, month: int, day: int, rest: int) -> None:
    hour, minute, second = rest % 26, rest, (rest * 7) % 61
    try:
        datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        good = True
    except ValueError:
        good = False
    text = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z"
    assert is_time(text) == good


def test_the_example_in_the_docs_is_one() -> None:
    text = DOCS.read_text("utf-8")
    blocks = re.findall(r"```json\n(\{\"bytes\":.*)\n```", text)
    assert len(blocks) == 1
    data = blocks[0].encode() + b"\n"
    assert recognised(data) is not None
    assert digest_of(data).hex() in text
