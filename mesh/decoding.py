"""The only place where bytes that somebody else wrote become values: JSON, MessagePack, TOML, text.

Each decoder fails in its own way on bytes that it does not expect. msgspec raises an error of its
own, UnicodeDecodeError for a string that is not UTF-8, and RecursionError for a message that is
nested deeply; bytes.fromhex accepts blanks. Whoever calls one directly will forget one of these.
Here all of them become Undecodable. The caller knows who wrote the bytes and raises an error that
says so: Misbehaved for a peer, StoreError for a file, InputError for a request.
tests/test_layers.py finds a decoder that is called anywhere else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, TypeVar, overload

import msgspec

from mesh.errors import Undecodable

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview | msgspec.Raw


class Format(Generic[T]):
    """Reads values of one type in one format; made once and kept where many are read."""

    def __init__(self, decode: Callable[[Buffer], T]) -> None:
        """See `json_of` and `messagepack_of`."""
        self._decode = decode

    def read(self, data: Buffer) -> T:
        """The value that `data` stands for; Undecodable when it stands for none of the type."""
        try:
            return self._decode(data)
        except RecursionError as error:
            raise Undecodable("nested too deeply") from error
        except (msgspec.MsgspecError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise Undecodable(str(error)) from error


@overload
def json_of(kind: type[T]) -> Format[T]: ...
@overload
def json_of(kind: Any) -> Format[Any]: ...
def json_of(kind: Any) -> Format[Any]:
    """JSON for a value of type `kind`, which may be a union of types."""
    return _json(kind)


@overload
def messagepack_of(kind: type[T]) -> Format[T]: ...
@overload
def messagepack_of(kind: Any) -> Format[Any]: ...
def messagepack_of(kind: Any) -> Format[Any]:
    """MessagePack for a value of type `kind`."""
    return _messagepack(kind)


@cache
def _json(kind: Any) -> Format[Any]:
    return Format(msgspec.json.Decoder(kind).decode)


@cache
def _messagepack(kind: Any) -> Format[Any]:
    return Format(msgspec.msgpack.Decoder(kind).decode)


def from_toml(data: bytes) -> dict[str, Any]:
    """The tables and values of a TOML file; Undecodable when it is none."""
    import tomllib  # here, since a command that talks to a node reads no file of settings

    try:
        return tomllib.loads(utf8(data))
    except RecursionError as error:
        raise Undecodable("nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise Undecodable(str(error)) from error


def utf8(data: bytes | bytearray) -> str:
    """UTF-8; Undecodable when it is not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Undecodable(str(error)) from error


def legible(data: bytes | bytearray) -> str:
    """UTF-8 as far as it goes, for a message to people. The bytes that are none stay apart.

    Each becomes a lone surrogate, which `printable` and `repr` escape.
    """
    return data.decode("utf-8", "surrogateescape")


def from_hex(digits: str) -> bytes:
    """The bytes written as pairs of lower-case hex digits, and nothing else; or Undecodable."""
    try:
        data = bytes.fromhex(digits)
    except ValueError as error:
        raise Undecodable("not pairs of lower-case hex digits") from error
    # It takes blanks and capitals as well. To write it again is far quicker than a pattern.
    if data.hex() != digits:
        raise Undecodable("not pairs of lower-case hex digits")
    return data


def from_base64(characters: str) -> bytes:
    """The bytes that Base64 stands for; Undecodable for characters that are none of it."""
    try:
        return base64.b64decode(characters, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Undecodable(str(error)) from error
