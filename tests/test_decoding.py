"""Whatever bytes come, they become a value of the type that was asked for, or Undecodable."""

from __future__ import annotations

import base64
import string
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mesh import decoding
from mesh.errors import InputError, Undecodable


class Inner(msgspec.Struct, frozen=True):
    name: str
    data: bytes = b""


class Outer(msgspec.Struct, frozen=True):
    inner: list[Inner]
    words: dict[str, str] = {}
    ratio: float = 0.0


OUTERS = st.builds(
    Outer,
    st.lists(st.builds(Inner, st.text(), st.binary())),
    st.dictionaries(st.text(), st.text()),
    st.floats(allow_nan=False, allow_infinity=False),
)
FORMATS = {
    "json": (decoding.json_of, msgspec.json.encode),
    "messagepack": (decoding.messagepack_of, msgspec.msgpack.encode),
}


@pytest.mark.parametrize("name", FORMATS)
@given(st.one_of(st.binary(), OUTERS), st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
@example(b'{"inner": [{"name": "\xff"}]}', 0, b" ")
@example(b'{"inner": [{"name": "\xed\xa0\x80"}]}', 0, b" ")
@example(b'{"inner": [], "words": {"\xff": ""}}', 0, b" ")
@example(b'{"inner": [], "new": "\xc3("}', 0, b" ")
@example(b"[" * 100_000, 0, b"[")
@example(b"\x91" * 100_000, 0, b"\x91")
@example(b'{"inner": [], "ratio": 1e999999}', 0, b" ")
def test_bytes_become_a_value_or_undecodable(
    name: str, given_bytes: bytes | Outer, at: int, splice: bytes
) -> None:
    reader, encode = FORMATS[name]
    data = encode(given_bytes) if isinstance(given_bytes, Outer) else given_bytes
    if isinstance(given_bytes, Outer):
        assert reader(Outer).read(data) == given_bytes
        at %= len(data)
        data = data[:at] + splice + data[at + len(splice) :]
    for kind in (Outer, dict[str, Any], object):
        try:
            value = reader(kind).read(data)
        except Undecodable:
            continue
        assert kind is not Outer or isinstance(value, Outer)


@given(st.binary())
def test_text_is_utf_8_or_undecodable(data: bytes) -> None:
    try:
        assert decoding.utf8(data).encode() == data
    except Undecodable:
        assert "�" in data.decode("utf-8", "replace")
    assert decoding.legible(data).encode("utf-8", "surrogateescape") == data


@given(st.one_of(st.text(), st.text(string.hexdigits + " \n"), st.binary().map(bytes.hex)))
@example("0" * 63)
@example("AB")
@example("0 0")
@example("٠٠")
def test_hex_is_lower_case_pairs_and_nothing_else(digits: str) -> None:
    try:
        assert decoding.from_hex(digits).hex() == digits
    except Undecodable:
        assert len(digits) % 2 or set(digits) - set("0123456789abcdef")


@given(st.one_of(st.text(), st.binary().map(lambda data: base64.b64encode(data).decode())))
@example("é")
@example("A")
def test_base64_becomes_bytes_or_undecodable(characters: str) -> None:
    try:
        data = decoding.from_base64(characters)
    except Undecodable:
        return
    assert set(characters) <= set(string.ascii_letters + string.digits + "+/=")
    assert len(data) <= len(characters)


@given(st.binary())
@example(b"a = '\xff'")
@example(b"a = " + b"[" * 50_000)
@example(b"a = " + b"9" * 5_000)
@example(b"a = 1\na = 2")
def test_toml_becomes_a_table_or_undecodable(data: bytes) -> None:
    try:
        table = decoding.from_toml(data)
    except Undecodable:
        return
    assert isinstance(table, dict)


def test_nobody_answers_500_for_it() -> None:
    assert issubclass(Undecodable, InputError)
