from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mesh.core.horizon import Edge
from mesh.core.reconcile import MAX_ASKS, Ask, Forked, Listed
from mesh.core.shortcut import Found, Several
from mesh.errors import InputError
from mesh.wire import messages
from mesh.wire.frames import Frame, FrameReader, Kind, end, frame
from mesh.wire.messages import (
    MAX_BATCH,
    MAX_MESSAGE,
    MAX_NAME,
    BatchRequest,
    CellsReply,
    CellsRequest,
    FindReply,
    FindRequest,
    Greeting,
    Hello,
    Offer,
    Offering,
    OfferReply,
    PartsReply,
    PartsRequest,
    PushReply,
    RootReply,
    StandingReply,
    StandingRequest,
    Start,
    TreeReply,
    TreeRequest,
    decode,
    encode,
    joined,
)
from tests.oracles import quick
from tests.vectors.make_wire import vectors

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "wire.json").read_text(encoding="ascii")
)

MAPS = [
    TreeRequest,
    TreeReply,
    BatchRequest,
    Offer,
    OfferReply,
    StandingRequest,
    StandingReply,
    PushReply,
]
ARRAYS = [
    Hello,
    Greeting,
    RootReply,
    CellsRequest,
    CellsReply,
    FindRequest,
    FindReply,
    PartsRequest,
    PartsReply,
]
KINDS = [*MAPS, *ARRAYS]

DIGEST = bytes(range(32))
HELLO = Hello(node=bytes(16), instance=bytes(8), name="alpha", root=DIGEST, count=1)
FORKED = Forked(0x8001, [17, 3], bytes(16))
LISTED = Listed(DIGEST, True)

# One of each type, with nothing left out.
EXAMPLES: list[msgspec.Struct] = [
    HELLO,
    Greeting(
        node=bytes(16),
        instance=bytes(8),
        root=DIGEST,
        count=1,
        name="alpha",
        sketch=Offering(key=b"key.", cells=2048, counts=bytes(64)),
    ),
    RootReply(hello=HELLO, equal=True, pulled=15, top=FORKED, cells=bytes(22), size=9),
    CellsRequest(root=DIGEST, key=b"key.", start=1, stop=2),
    CellsReply(cells=bytes(11)),
    FindRequest(root=DIGEST, prefixes=b"abcdabce", width=4),
    FindReply(found=Found(bytes(25), [Several(1, DIGEST * 2)])),
    TreeRequest(root=DIGEST, asks=[Ask("7f", DIGEST)], width=8),
    TreeReply(root=DIGEST, count=2, answers=[FORKED, LISTED]),
    BatchRequest(digests=DIGEST * 3),
    Offer(hello=HELLO, digests=DIGEST, more=True),
    OfferReply(hello=HELLO, wants=DIGEST, pulls=True, starts=[Start(DIGEST, 5), Start(DIGEST, 0)]),
    StandingRequest(route=[bytes(16), bytes(range(16))], since=5),
    StandingReply(
        peers=[Edge(bytes(16), "alpha", 7, "push", "it is full")],
        more=True,
        root=DIGEST,
        error="cannot reach it",
        never=True,
    ),
    PartsRequest(digest=DIGEST, known=4, wait=5),
    PartsReply(node=bytes(16), size=9, front=8, window=7),
    PushReply(hello=HELLO, stored=1, known=2, rejected=3),
]


def type_name(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__


def plain(message: object) -> Any:
    """A message as maps, arrays and bytes."""
    return msgspec.to_builtins(message, builtin_types=(bytes,))


def changed(message: msgspec.Struct, field: str, value: object) -> Any:
    """The message as maps and arrays, with another value in a field."""
    whole = plain(message)
    if isinstance(whole, dict):
        return whole | {field: value}
    whole[message.__struct_fields__.index(field)] = value
    return whole


def refused(kind: type, value: object) -> None:
    data = msgspec.msgpack.encode(value)
    with pytest.raises(InputError, match=f"^not a {kind.__name__}: "):
        decode(kind, data)


# --- golden vectors --------------------------------------------------------------------------


def unreadable(value: Any) -> Any:
    """JSON's `{"hex": ...}` as bytes."""
    if isinstance(value, dict):
        if value.keys() == {"hex"}:
            return bytes.fromhex(value["hex"])
        return {key: unreadable(each) for key, each in value.items()}
    return [unreadable(each) for each in value] if isinstance(value, list) else value


def test_the_vectors_are_what_the_generator_makes() -> None:
    assert vectors() == VECTORS
    assert {vector["type"] for vector in VECTORS["messages"]} == {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize(
    "vector", VECTORS["messages"], ids=lambda vector: f"{vector['type']}: {vector['what']}"
)
def test_messages_are_those_of_the_protocol(vector: dict[str, Any]) -> None:
    kind = getattr(messages, vector["type"])
    message = msgspec.convert(unreadable(vector["fields"]), kind)
    assert encode(message).hex() == vector["hex"]
    assert decode(kind, bytes.fromhex(vector["hex"])) == message


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["what"])
def test_frames_are_those_of_the_protocol(vector: dict[str, Any]) -> None:
    frames = [
        Frame(
            Kind(each["kind"]),
            bytes.fromhex(each["digest"]),
            each["length"],
            bytes.fromhex(each["data"]),
        )
        for each in vector["frames"]
    ]
    pieces = [frame(each.kind, each.digest, each.length) + each.data for each in frames]
    assert (b"".join(pieces) + end(len(frames))).hex() == vector["hex"]
    reader = FrameReader()
    assert reader.feed(bytes.fromhex(vector["hex"])) == frames
    reader.finish()


# --- round trips -----------------------------------------------------------------------------

counts = st.integers(0, 2**63 - 1)
names = st.binary(min_size=32, max_size=32)
many = st.lists(names, max_size=5).map(b"".join)
standing: dict[str, Any] = {
    "node": st.binary(min_size=16, max_size=16),
    "instance": st.binary(min_size=8, max_size=8),
    "name": st.none() | st.text(max_size=MAX_NAME),
    "root": st.none() | names,
    "count": counts,
    "protocol": st.integers(0, 2**32),
    "set": st.integers(0, 2**32),
}
hellos = st.builds(Hello, **standing)
keys = st.binary(min_size=4, max_size=4)
several = st.builds(Several, counts, many)
offerings = st.builds(Offering, key=keys, cells=counts, counts=st.binary(max_size=64))
forks = st.builds(
    Forked, st.integers(0, 0xFFFF), st.lists(counts, max_size=16), st.binary(max_size=64)
)
lists = st.builds(Listed, many, st.booleans())
asks = st.builds(Ask, st.text("0123456789abcdef", max_size=63), st.none() | st.just(b"") | names)
anything = st.one_of(
    hellos,
    st.builds(
        RootReply,
        hello=hellos,
        equal=st.booleans(),
        pulled=st.none() | counts,
        top=st.none() | forks | lists,
        cells=st.none() | st.binary(max_size=40),
        size=st.none() | counts,
    ),
    st.builds(Greeting, **standing, sketch=st.none() | offerings),
    st.builds(CellsRequest, root=names, key=keys, start=counts, stop=counts),
    st.builds(CellsReply, cells=st.none() | st.binary(max_size=40)),
    st.builds(FindRequest, root=names, prefixes=st.binary(max_size=40), width=st.integers(3, 7)),
    st.builds(FindReply, found=st.none() | st.builds(Found, many, st.lists(several, max_size=3))),
    st.builds(
        TreeRequest,
        root=names,
        asks=st.lists(asks, max_size=5),
        width=st.integers(8, 32),
        set=st.integers(0, 9),
    ),
    st.builds(TreeReply, root=names, count=counts, answers=st.lists(forks | lists, max_size=5)),
    st.builds(BatchRequest, digests=many, set=st.integers(0, 9)),
    st.builds(Offer, hello=hellos, digests=many, more=st.booleans()),
    st.builds(OfferReply, hello=hellos, wants=many, pulls=st.booleans()),
    st.builds(PushReply, hello=hellos, stored=counts, known=counts, rejected=counts),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=9),
    st.binary(max_size=40),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=5,
)


@quick
@given(anything)
def test_a_message_is_decoded_to_what_was_encoded(message: msgspec.Struct) -> None:
    assert decode(type(message), encode(message)) == message


@quick
@given(anything, st.dictionaries(st.text(min_size=9), values, max_size=3), st.randoms())
def test_unknown_fields_are_ignored_and_fields_come_in_any_order(
    message: msgspec.Struct, unknown: dict[str, object], random: Any
) -> None:
    whole = plain(message)
    if isinstance(whole, list):  # which is read in order: what is unknown stands behind
        later = [*whole, *unknown.values()]
        assert decode(type(message), msgspec.msgpack.encode(later)) == message
        return
    fields = list({**unknown, **whole}.items())
    random.shuffle(fields)
    assert decode(type(message), msgspec.msgpack.encode(dict(fields))) == message


def example(kind: type) -> Any:
    (message,) = (each for each in EXAMPLES if type(each) is kind)
    return message


def test_unknown_fields_are_ignored_in_what_a_message_holds() -> None:
    reply = plain(example(RootReply))
    reply[0] += [[1, {"x": b""}]]
    reply[3] += ["later"]
    assert decode(RootReply, msgspec.msgpack.encode(reply)) == example(RootReply)
    request = plain(example(TreeRequest))
    request["asks"][0] += [7, None]
    assert decode(TreeRequest, msgspec.msgpack.encode(request)) == example(TreeRequest)


def test_fields_with_defaults_may_be_missing() -> None:
    for message in EXAMPLES:
        fields = msgspec.structs.fields(message)
        given_ = plain(message)
        required = [field.name for field in fields if field.required]
        if isinstance(given_, list):
            assert [field.name for field in fields[: len(required)]] == required
            del given_[len(required) :]
        else:
            given_ = {name: given_[name] for name in required}
        decoded = decode(type(message), msgspec.msgpack.encode(given_))
        for field in fields:
            expected = getattr(message, field.name) if field.required else field.default
            assert getattr(decoded, field.name) == expected


def test_a_hello_is_a_greeting_without_a_sketch() -> None:
    assert decode(Greeting, encode(HELLO)) == Greeting(**msgspec.structs.asdict(HELLO))


# --- messages that are not -------------------------------------------------------------------


@quick
@given(st.sampled_from(KINDS), st.binary(max_size=300))
def test_random_bytes_are_an_input_error(kind: type, data: bytes) -> None:
    with pytest.raises(InputError):
        decode(kind, data)


@quick
@given(st.sampled_from(KINDS), values)
def test_random_values_are_an_input_error(kind: type, value: object) -> None:
    # An array that begins with nil says "none" in the two answers that have one field.
    assume(not (isinstance(value, list) and value[:1] == [None]))
    with pytest.raises(InputError):
        decode(kind, msgspec.msgpack.encode(value))


@quick
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_mutated_message_is_one_or_an_input_error(
    message: msgspec.Struct, data: st.DataObject
) -> None:
    whole = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        match data.draw(st.sampled_from(["change", "insert", "remove", "cut", "repeat"])):
            case "change":
                whole[at] = data.draw(st.integers(0, 255))
            case "insert":
                whole[at:at] = data.draw(st.binary(min_size=1, max_size=5))
            case "remove":
                del whole[at : at + data.draw(st.integers(1, 5))]
            case "cut":
                del whole[at + 1 :]
            case "repeat":
                whole += whole[at:]
        whole = whole or bytearray(b"\x80")
    try:
        decoded = decode(type(message), bytes(whole))
    except InputError:
        return
    # What passed for a message is one: it can be said again.
    assert decode(type(message), encode(decoded)) == decoded or b"\xcb" in whole


@pytest.mark.parametrize("message", EXAMPLES, ids=type_name)
def test_every_prefix_of_a_message_is_an_input_error(message: msgspec.Struct) -> None:
    data = encode(message)
    for stop in range(len(data)):
        with pytest.raises(InputError):
            decode(type(message), data[:stop])
    with pytest.raises(InputError):
        decode(type(message), data + b"\xc0")


@pytest.mark.parametrize("message", EXAMPLES, ids=type_name)
def test_a_field_that_is_missing_or_of_another_type_is_an_input_error(
    message: msgspec.Struct,
) -> None:
    whole = plain(message)
    for at, field in enumerate(msgspec.structs.fields(message)):
        if field.required:
            short = whole[:at] if isinstance(whole, list) else dict(whole)
            if isinstance(short, dict):
                del short[field.name]
            refused(type(message), short)
        for other in (object_, [object_], {"a": object_}):
            refused(type(message), changed(message, field.name, other))
        if not may_be_null(message, field.name):
            refused(type(message), changed(message, field.name, None))
        if not isinstance(getattr(message, field.name), int):
            refused(type(message), changed(message, field.name, 1))
        text = "text" if field.name not in ("name", "error") else b"text"
        refused(type(message), changed(message, field.name, text))


def may_be_null(message: msgspec.Struct, field: str) -> bool:
    nullable = {
        Hello: ("root", "name"),
        StandingRequest: ("since",),
        StandingReply: ("root", "error"),
        Greeting: ("root", "name", "sketch"),
        RootReply: ("pulled", "top", "cells", "size"),
        CellsReply: ("cells",),
        FindReply: ("found",),
        PartsRequest: ("known",),
        PartsReply: ("size",),
    }
    return field in nullable.get(type(message), ())


# Of no type that any field has.
object_ = msgspec.msgpack.Ext(5, b"x")

LIMITS = [
    (Hello, "node", bytes(15)),
    (Hello, "node", bytes(17)),
    (Hello, "instance", bytes(7)),
    (Hello, "instance", bytes(9)),
    (Hello, "name", "x" * (MAX_NAME + 1)),
    (Hello, "root", bytes(31)),
    (Hello, "root", bytes(33)),
    (Hello, "root", b""),
    (Hello, "count", -1),
    (Hello, "count", 2**63),
    (Greeting, "sketch", [b"key", 1, b""]),
    (Greeting, "sketch", [b"key.", -1, b""]),
    (Greeting, "sketch", [b"key.", 1, bytes(257)]),
    (Greeting, "sketch", [b"key.", 1]),
    (RootReply, "pulled", -1),
    (RootReply, "pulled", 1.5),
    (RootReply, "size", -1),
    (RootReply, "cells", bytes(11 * 2**18 + 1)),
    (CellsRequest, "root", bytes(31)),
    (CellsRequest, "key", bytes(5)),
    (CellsRequest, "start", -1),
    (CellsReply, "cells", bytes(11 * 2**18 + 1)),
    (FindRequest, "root", bytes(33)),
    (FindRequest, "width", 2),
    (FindRequest, "width", 8),
    (FindRequest, "prefixes", bytes(7 * 120_000 + 1)),
    (FindReply, "found", [bytes(25 * 120_000 + 1), []]),
    (FindReply, "found", [b""]),
    (FindReply, "found", [b"", [[-1, b""]]]),
    (FindReply, "found", [b"", [[0, bytes(32 * 2**17 + 1)]]]),
    (FindReply, "found", [b"", [[0, b""]] * 120_001]),
    (TreeRequest, "root", bytes(31)),
    (TreeRequest, "width", 7),
    (TreeRequest, "width", 33),
    (TreeRequest, "asks", [["", None]] * (MAX_ASKS + 1)),
    (TreeRequest, "asks", [[]]),
    (TreeRequest, "asks", [[1, None]]),
    (TreeRequest, "asks", [["", "text"]]),
    (TreeReply, "root", bytes(33)),
    (TreeReply, "count", -1),
    (TreeReply, "answers", [[2, b"", False]]),
    (TreeReply, "answers", [[]]),
    (TreeReply, "answers", [[0, 1, [1]]]),
    (TreeReply, "answers", [[0, 1, ["1"], b""]]),
    (TreeReply, "answers", [[1, "text"]]),
    (BatchRequest, "digests", bytes(32 * MAX_BATCH + 1)),
    (Offer, "digests", bytes(32 * MAX_BATCH + 1)),
    (OfferReply, "wants", bytes(32 * MAX_BATCH + 1)),
    (PushReply, "stored", -1),
    (PushReply, "known", 2**63),
    (PushReply, "rejected", 1.5),
]


@pytest.mark.parametrize(
    ("kind", "field", "value"), LIMITS, ids=lambda v: v if isinstance(v, str) else type_name(v)
)
def test_a_value_beyond_its_limits_is_an_input_error(kind: type, field: str, value: object) -> None:
    refused(kind, changed(example(kind), field, value))


def test_values_at_their_limits_are_taken() -> None:
    for message in (
        msgspec.structs.replace(HELLO, name="ü" * MAX_NAME, count=2**63 - 1),
        TreeRequest(root=DIGEST, asks=[Ask("f" * 63, DIGEST)] * MAX_ASKS, width=32),
        BatchRequest(digests=bytes(32 * MAX_BATCH)),
    ):
        assert decode(type(message), encode(message)) == message


def test_a_hello_that_is_wrong_spoils_what_holds_it() -> None:
    short = changed(HELLO, "node", b"short")
    for kind in (Offer, OfferReply, PushReply):
        refused(kind, {"hello": short})
        refused(kind, {"hello": {}})
    refused(RootReply, [short])
    refused(RootReply, [[]])


def test_text_that_is_not_utf8_is_an_input_error() -> None:
    data = encode(HELLO).replace(b"alpha", b"al\xff\xfea")
    with pytest.raises(InputError):
        decode(Hello, data)


# --- limits on memory ------------------------------------------------------------------------


def padded(size: int) -> bytes:
    """A message of `size` bytes, most of them in a field that nobody knows."""
    empty = len(msgspec.msgpack.encode({"digests": b"", "later": bytes(2**16)})) - 2**16
    return msgspec.msgpack.encode({"digests": b"", "later": bytes(size - empty)})


def test_the_largest_message_is_taken_and_the_next_larger_refused() -> None:
    assert len(padded(MAX_MESSAGE)) == MAX_MESSAGE
    assert decode(BatchRequest, padded(MAX_MESSAGE)) == BatchRequest(digests=b"")
    with pytest.raises(InputError, match=f"a message of {MAX_MESSAGE + 1} bytes; the limit is"):
        decode(BatchRequest, padded(MAX_MESSAGE + 1))


START = b"\x83\xa4root\xc4\x20" + bytes(32) + b"\xa5count\x00\xa7answers"
ANNOUNCED = {
    "answers": (TreeReply, START + b"\xdd\xff\xff\xff\xff"),
    "counts": (TreeReply, START + b"\x91\x94\x00\x00\xdd\xff\xff\xff\xff"),
    "hashes": (TreeReply, START + b"\x91\x94\x00\x00\x90\xc6\xff\xff\xff\xff"),
    "digests": (BatchRequest, b"\x81\xa7digests\xc6\xff\xff\xff\xff"),
    "asks": (TreeRequest, b"\x81\xa4asks\xdd\xff\xff\xff\xff"),
    "a node": (Hello, b"\x97\xc6\xff\xff\xff\xff"),
    "an array": (Hello, b"\xdd\xff\xff\xff\xff"),
    "cells": (CellsReply, b"\x91\xc6\xff\xff\xff\xff"),
    "found digests": (FindReply, b"\x91\x92\xc6\xff\xff\xff\xff"),
    "several of them": (FindReply, b"\x91\x92\xc4\x00\xdd\xff\xff\xff\xff"),
    "fields": (Offer, b"\xdf\xff\xff\xff\xff"),
    "a key": (Offer, b"\x81\xdb\xff\xff\xff\xff"),
    "an unknown list": (Offer, b"\x81\xa1x\xdd\xff\xff\xff\xff"),
    "an unknown map": (Offer, b"\x81\xa1x\xdf\xff\xff\xff\xff"),
    "unknown bytes": (Offer, b"\x81\xa1x\xc6\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("what", ANNOUNCED)
def test_no_memory_is_taken_for_what_is_only_announced(what: str) -> None:
    kind, data = ANNOUNCED[what]
    for tail in (b"", b"\x00", bytes(1000)):
        tracemalloc.start()
        with pytest.raises(InputError):
            decode(kind, data + tail)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 500_000


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1x"])
def test_nesting_without_end_is_an_input_error(opening: bytes) -> None:
    with pytest.raises(InputError):
        decode(Offer, b"\x81\xa1x" + opening * 200_000 + b"\xc0")
    with pytest.raises(InputError):
        decode(Hello, b"\x98" + encode(HELLO)[1:] + opening * 200_000 + b"\xc0")


def test_a_greeting_is_small() -> None:
    # Sent every interval to every peer, also when nothing has changed: so much, and no more. A
    # node's own name is ASCII (mesh/config/peers.py).
    most = 2**63 - 1
    offering = Offering(key=bytes(4), cells=2**22, counts=bytes(64))
    named = Greeting(
        node=bytes(16), instance=bytes(8), root=DIGEST, count=most, name="x" * 64, sketch=offering
    )
    assert len(encode(named)) == 218
    hello = msgspec.structs.replace(HELLO, name="x" * 64, root=None, count=0)
    assert len(encode(RootReply(hello=hello, equal=True, pulled=most))) <= 300
    # And between those that have met before, with a million blobs, and a week since the last pull.
    known = msgspec.structs.replace(named, name=None, count=1_000_000)
    unnamed = RootReply(
        hello=msgspec.structs.replace(hello, name=None), equal=True, pulled=7 * 86_400_000
    )
    assert len(encode(known)) + len(encode(unnamed)) <= 200


# --- digests joined --------------------------------------------------------------------------


def test_joined_digests_are_a_whole_number_of_them() -> None:
    for count in (0, 1, 7):
        data = DIGEST * count
        assert joined(data) is data
    for size in (1, 31, 33, 63):
        with pytest.raises(InputError, match=f"{size} bytes"):
            joined(bytes(size))
