"""How names, which are bytes, stand in JSON: as text where they are UTF-8, and otherwise in hex."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from mesh.decoding import from_hex, utf8
from mesh.errors import Undecodable


def spelled(name: bytes) -> tuple[str | UnsetType, str | UnsetType]:
    """`name` as the values of the text field and of the hex field: one of the two is UNSET."""
    try:
        return utf8(name), UNSET
    except Undecodable:
        return UNSET, name.hex()


def unspelled(field: str, text: str | UnsetType, in_hex: str | UnsetType) -> bytes:
    """The bytes that one of the two fields spells; ValueError unless it is exactly one."""
    if isinstance(text, str) and in_hex is UNSET:
        return text.encode()
    if isinstance(in_hex, str) and text is UNSET:
        return from_hex(in_hex)
    raise ValueError(f"needs either `{field}` or `{field}_hex`")
