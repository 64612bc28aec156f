from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import (
    DIGEST_SIZE,
    digest_of,
    new_hasher,
    parse_digest,
    parse_name,
    parse_prefix,
    split_digests,
)
from mesh.errors import InputError
from tests.oracles import quick

# What `b2sum -l 256` of GNU coreutils prints.
B2SUM = {
    b"": "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8",
    b"abc": "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319",
}

HEX = "0123456789abcdef" * 4

NOT_HEX = {
    "a letter beyond f": "g" + HEX[1:],
    "a blank in front": " " + HEX[1:],
    "a blank in the middle": HEX[:2] + " " + HEX[3:],
    "a newline at the end": HEX[:-1] + "\n",
    "a 0x": "0x" + HEX[2:],
    "a NUL": HEX[:-1] + "\0",
    "a digit that is not ASCII": "\uff10" + HEX[1:],
    "an Arabic digit": "\u0663" + HEX[1:],
    "one digit too many": HEX + "0",
    "a newline beyond the end": HEX + "\n",
}


@pytest.mark.parametrize("data", B2SUM)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_blob_is_named_as_b2sum_names_it(data: bytes, kind: type) -> None:
    assert digest_of(kind(data)).hex() == B2SUM[data]


@quick
@given(st.lists(st.binary(max_size=200)))
def test_hashing_in_pieces_gives_the_same_name(pieces: list[bytes]) -> None:
    hasher = new_hasher()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digest() == digest_of(b"".join(pieces))
    assert len(hasher.digest()) == DIGEST_SIZE


# Around the size from which another implementation hashes, and around the blocks of both.
SIZES = st.one_of(
    st.integers(0, 20_000),
    st.sampled_from([8191, 8192, 8193, 65_535, 65_536, 1_048_576, 1_048_577]),
)
KINDS = st.sampled_from([bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])


@quick
@given(SIZES, st.integers(0, 2**32), KINDS)
def test_a_name_is_hashlibs_blake2b_at_every_size(size: int, seed: int, kind) -> None:
    data = random.Random(seed).randbytes(size)
    assert digest_of(kind(data)) == hashlib.blake2b(data, digest_size=32).digest()


@quick
@given(st.lists(st.tuples(SIZES, KINDS, st.booleans()), max_size=6), st.integers(0, 2**32))
def test_a_hasher_is_hashlibs_blake2b_after_every_piece(pieces, seed: int) -> None:
    source = random.Random(seed)
    ours, oracle = new_hasher(), hashlib.blake2b(digest_size=32)
    for size, kind, asked in pieces:
        data = source.randbytes(size)
        ours.update(kind(data))
        oracle.update(data)
        if asked:
            assert ours.digest() == oracle.digest()
    assert ours.digest() == oracle.digest()


@quick
@given(st.binary(min_size=32, max_size=32))
def test_a_digest_survives_being_written_and_parsed(digest: bytes) -> None:
    assert parse_digest(digest.hex()) == digest


@pytest.mark.parametrize("text", NOT_HEX.values(), ids=NOT_HEX.keys())
def test_neither_digest_nor_prefix_with(text: str) -> None:
    with pytest.raises(InputError):
        parse_digest(text)
    with pytest.raises(InputError):
        parse_prefix(text)


def test_a_digest_in_a_message_or_a_path_is_in_lower_case() -> None:
    with pytest.raises(InputError):
        parse_digest("A" + HEX[1:])


@pytest.mark.parametrize("length", [0, 1, 62, 63])
def test_a_part_of_a_digest_is_a_prefix_but_not_a_digest(length: int) -> None:
    assert parse_prefix(HEX[:length]) == HEX[:length]
    with pytest.raises(InputError):
        parse_digest(HEX[:length])


def test_a_whole_digest_is_a_prefix() -> None:
    assert parse_prefix(HEX) == HEX


@quick
@given(st.text("0123456789abcdefAFgx \n\uff10", max_size=70))
def test_only_hex_is_taken_in_either_case(text: str) -> None:
    good = len(text) <= 64 and set(text) <= set("0123456789abcdefAF")
    for parse, least in ((parse_prefix, 0), (parse_name, 6)):
        if good and len(text) >= least:
            assert parse(text) == text.lower()
        else:
            with pytest.raises(InputError):
                parse(text)


@pytest.mark.parametrize("parse", [parse_digest, parse_prefix, parse_name])
def test_an_error_shows_little_of_the_input_and_nothing_raw(parse) -> None:
    with pytest.raises(InputError) as caught:
        parse("\x1b[2J\n\u202eé" + "x" * 1_000_000)
    message = str(caught.value)
    assert message.isprintable()
    assert message.isascii()
    assert len(message) < 200
    assert r"\x1b[2J\n\u202e\xe9xxx" in message


@quick
@given(st.lists(st.binary(min_size=32, max_size=32)))
def test_joined_digests_are_split_again(digests: list[bytes]) -> None:
    assert split_digests(b"".join(digests)) == digests
