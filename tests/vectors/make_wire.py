"""Makes wire.json, the golden messages and frames, from the descriptions alone.

Run from the top of the repository: `python -m tests.vectors.make_wire`. Bytes that change here
are a change of the protocol. In the JSON, `{"hex": ...}` stands for bytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tests.oracles import blobs

NAMES = blobs(0, 16)
NODE, INSTANCE = bytes(range(16)), bytes(range(16, 24))
MOST = 2**63 - 1

# [node, instance, root, count, name, protocol, set]
HELLO = [NODE, INSTANCE, NAMES[0], 3, "alpha", 1, 0]
STARTING = [NODE, INSTANCE, None, MOST, "x" * 64, 1, 0]
FOREIGN = [NODE, INSTANCE, NAMES[0], 200, "größe", 300, 70_000]
KNOWN = [NODE, INSTANCE, None, 0, None, 1, 0]

# A sketch that is offered: [key, cells, counts].
KEY = bytes(range(24, 28))
OFFERING = [KEY, 2**18, bytes(range(64))]
CELLS = bytes(range(33))

# An inner bucket: [0, bitmap, counts, hashes]. Digests: [1, digests, more].
FORKED = [0, 0x8001, [17, 2**32], b"".join(name[:8] for name in NAMES[1:3])]
LISTED = [1, b"".join(sorted(NAMES[3:5])), False]
MORE = [1, b"".join(sorted(NAMES[5:15])), True]

MESSAGES: list[tuple[str, str, Any]] = [
    ("Hello", "a node with blobs", HELLO),
    ("Hello", "the longest name, while the tree is being built", STARTING),
    ("Hello", "another protocol and set", FOREIGN),
    ("Greeting", "a node that has no sketch", [*HELLO, None]),
    ("Greeting", "to one whose name is known", [*HELLO[:4], None, 1, 0, OFFERING]),
    ("RootReply", "equal roots", [KNOWN, True, 12_500, None, None, None]),
    ("RootReply", "an inner bucket", [HELLO, False, None, FORKED, None, 2**40]),
    ("RootReply", "a leaf", [HELLO, False, 0, LISTED, None, None]),
    ("RootReply", "three cells", [HELLO, False, 70_000, None, CELLS, 123_456]),
    ("CellsRequest", "more of them", [NAMES[0], KEY, 3, 2**17, 0]),
    ("CellsReply", "two cells", [CELLS[:22]]),
    ("CellsReply", "no such sketch", [None]),
    ("FindRequest", "two prefixes", [NAMES[0], b"abcdabce", 4, 0]),
    ("FindReply", "one digest each", [[NAMES[0][7:] + NAMES[1][7:], []]]),
    (
        "FindReply",
        "one, then two, one, and none",
        [[NAMES[2][7:] + NAMES[3][7:], [[1, b"".join(sorted(NAMES[:2]))], [3, b""]]]],
    ),
    ("FindReply", "moved on", [None]),
    (
        "TreeRequest",
        "children, and two pages of a listing",
        {
            "root": NAMES[0],
            "asks": [["", None], ["7f", b""], ["0123456789abcdef", NAMES[1]]],
            "width": 8,
            "set": 0,
        },
    ),
    ("TreeReply", "answers", {"root": NAMES[0], "count": 5000, "answers": [FORKED, LISTED, MORE]}),
    ("TreeReply", "moved on", {"root": NAMES[1], "count": 255, "answers": []}),
    ("BatchRequest", "ten blobs", {"digests": b"".join(NAMES[:10]), "set": 0}),
    ("Offer", "two blobs", {"hello": HELLO, "digests": b"".join(NAMES[:2]), "more": False}),
    ("Offer", "my root has changed", {"hello": HELLO, "digests": b"", "more": True}),
    ("OfferReply", "one is wanted", {"hello": HELLO, "wants": NAMES[1], "pulls": False}),
    ("OfferReply", "none is wanted", {"hello": HELLO, "wants": b"", "pulls": True}),
    ("StandingRequest", "of the asked itself", {"route": [], "since": None, "set": 0}),
    ("StandingRequest", "passed on", {"route": [NODE, NODE[::-1]], "since": 70_000, "set": 0}),
    (
        "StandingReply",
        "two peers",
        {
            "peers": [
                [NODE, "alpha", 0, "both", None],
                [None, "gone:7280", None, "pull", "cannot reach gone:7280"],
            ],
            "more": False,
            "root": NAMES[2],
            "error": None,
            "never": False,
        },
    ),
    (
        "StandingReply",
        "not passed on",
        {"peers": [], "more": False, "root": None, "error": "no such request", "never": True},
    ),
    ("PartsRequest", "how far is it", [NAMES[0], None, 0, 0]),
    ("PartsRequest", "is there more than 8 MiB by now", [NAMES[0], 2**23, 10_000, 0]),
    ("PartsReply", "not here", [NODE, None, 0, 0]),
    ("PartsReply", "on its way", [NODE, 2**31, 2**23, 16]),
    ("PushReply", "counts", {"hello": HELLO, "stored": 127, "known": 128, "rejected": 2**16}),
]

FRAMES: list[tuple[str, list[tuple[int, bytes, int, bytes]]]] = [
    ("nothing", []),
    ("one of each kind", [
        (1, NAMES[0], 17, b"mesh test blob 0!"),
        (2, NAMES[1], 0, b""),
        (3, NAMES[2], 4 * 1024 * 1024, b""),
        (4, NAMES[3], 0, b""),
    ]),
    ("an empty blob", [(1, NAMES[4], 0, b"")]),
]  # fmt: skip


def pack(value: object) -> bytes:
    """MessagePack, as far as messages need it: every number in its shortest form, floats in 8."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case int():
            return _number(value)
        case str():
            text = value.encode()
            return _head(len(text), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + text
        case bytes():
            return _head(len(value), 0, 0, (0xC4, 0xC5, 0xC6)) + value
        case list():
            items = b"".join(map(pack, value))
            return _head(len(value), 0x90, 16, (None, 0xDC, 0xDD)) + items
        case dict():
            pairs = b"".join(pack(key) + pack(each) for key, each in value.items())
            return _head(len(value), 0x80, 16, (None, 0xDE, 0xDF)) + pairs
    raise TypeError(f"messages have no {type(value)}")


def _number(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes([value])
    return _head(value, 0, 0, (0xCC, 0xCD, 0xCE, 0xCF))


def _head(value: int, small: int, below: int, tags: tuple[int | None, ...]) -> bytes:
    """A length or number: in the tag itself when below `below`, or behind one, in 1 to 8 bytes."""
    if value < below:
        return bytes([small | value])
    for power, tag in enumerate(tags):
        if tag is not None and value < 256 ** (2**power):
            return bytes([tag]) + value.to_bytes(2**power, "big")
    raise ValueError(f"{value} is too large")


def frame(kind: int, digest: bytes, length: int, data: bytes = b"") -> bytes:
    return bytes([kind]) + digest + struct.pack(">Q", length) + data


def readable(value: object) -> object:
    """As JSON has it."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list):
        return [readable(each) for each in value]
    if isinstance(value, dict):
        return {key: readable(each) for key, each in value.items()}
    return value


def vectors() -> dict[str, object]:
    return {
        "messages": [
            {"type": kind, "what": what, "fields": readable(fields), "hex": pack(fields).hex()}
            for kind, what, fields in MESSAGES
        ],
        "frames": [
            {
                "what": what,
                "frames": [
                    {"kind": kind, "digest": digest.hex(), "length": length, "data": data.hex()}
                    for kind, digest, length, data in frames
                ],
                "hex": b"".join(
                    [*(frame(*each) for each in frames), frame(0, bytes(32), len(frames))]
                ).hex(),
            }
            for what, frames in FRAMES
        ],
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("wire.json")
    path.write_text(json.dumps(vectors(), indent=2) + "\n", encoding="ascii")
