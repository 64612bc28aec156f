"""Makes sketch.json, golden cells, from docs/protocol.md alone; slow, one digest at a time.

Run from the top of the repository: `python -m tests.vectors.make_sketch`. Cells that change here
are a change of the protocol.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from math import floor, sqrt
from pathlib import Path
from typing import NamedTuple

from tests.oracles import blobs

WORD = 2**64

# A key as a key file may hold one: no blanks.
SECRET = b"a-secret"


class SlowKey(NamedTuple):
    first: int
    second: int
    id: bytes


def slow_key(secret: bytes, number: int = 0) -> SlowKey:
    made = hashlib.blake2b(
        number.to_bytes(8, "big") + secret, digest_size=20, person=b"mesh-sketch-v1"
    ).digest()
    return SlowKey(int.from_bytes(made[0:8], "big"), int.from_bytes(made[8:16], "big"), made[16:])


def slow_places(key: SlowKey, digest: bytes, cells: int) -> tuple[int, int, list[int]]:
    """What a digest adds to sums and to weights, and in which of the first cells."""
    name = int.from_bytes(digest[:7], "big")
    mixed = name ^ key.first
    mixed ^= mixed >> 32
    mixed = mixed * 0xD6E8FEB86659FD93 % WORD
    mixed ^= mixed >> 29
    mixed = mixed * 0x9FB21C651E98DF25 % WORD
    mixed ^= mixed >> 32
    check = (mixed + key.second) * 0xC2B2AE3D27D4EB4F % WORD >> 32
    places, cell, state = [], 0, mixed | 1
    while cell < cells:
        places.append(cell)
        state = state * 0xDA942042E4DD58B5 % WORD
        u = (state >> 11) + 1
        cell += floor((sqrt(2.0**53 / u) - 1.0) * (cell + 1.5)) + 1
    return name, 2**31 + check, places


def slow_cells(key: SlowKey, digests: Iterable[bytes], cells: int) -> list[tuple[int, int]]:
    """Sum and weight of each cell."""
    sums, weights = [0] * cells, [0] * cells
    for digest in digests:
        name, weight, places = slow_places(key, digest, cells)
        for place in places:
            sums[place] = (sums[place] + name) % WORD
            weights[place] = (weights[place] + weight) % WORD
    return list(zip(sums, weights, strict=True))


def slow_wire(cells: list[tuple[int, int]]) -> bytes:
    sums = b"".join((total % 2**56).to_bytes(7, "big") for total, _ in cells)
    return sums + b"".join((weight % 2**32).to_bytes(4, "big") for _, weight in cells)


def slow_counts(cells: list[tuple[int, int]]) -> bytes:
    places = [1 + j + j * j // 4 for j in range(64)]
    return bytes(cells[place][1] >> 32 & 255 for place in places if place < len(cells))


def vectors() -> dict[str, object]:
    keys = [(b"", 0), (SECRET, 0), (SECRET, 1)]
    key = slow_key(SECRET)
    return {
        "digests": "BLAKE2b-256 of 'mesh test blob <i>' in ASCII, for i from 0 to blobs - 1",
        "secret": SECRET.hex(),
        "set": 0,
        "keys": [
            {
                "secret": secret.hex(),
                "set": number,
                "first": f"{slow_key(secret, number).first:016x}",
                "second": f"{slow_key(secret, number).second:016x}",
                "id": slow_key(secret, number).id.hex(),
            }
            for secret, number in keys
        ],
        "places": [
            {"digest": digest.hex(), "weight": weight, "cells": places}
            for digest in [*blobs(0, 6), bytes(32), b"\xff" * 32]
            for _, weight, places in [slow_places(key, digest, 2**20)]
        ],
        "sketches": [
            {
                "blobs": count,
                "cells": slow_wire(slow_cells(key, blobs(0, count), 12)).hex(),
                "counts": slow_counts(slow_cells(key, blobs(0, count), 2048)).hex(),
            }
            for count in (0, 1, 2, 1000)
        ],
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("sketch.json")
    path.write_text(json.dumps(vectors(), indent=2) + "\n", encoding="ascii")
