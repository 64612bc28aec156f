"""libsodium's BLAKE2b, as PyNaCl brings it: a quarter faster than hashlib's before Python 3.14.

It is called through PyNaCl's own binding rather than through `nacl.bindings`, which takes 35 ms to
load where this takes one, and which takes nothing but `bytes`. tests/core/test_digest.py compares
every use of it with hashlib.
"""

from __future__ import annotations

from nacl._sodium import ffi, lib

_SIZE = 32
_STATE = lib.crypto_generichash_statebytes()

# Without this libsodium hashes in plain C; it then takes what the processor has. It may be called
# again, also from several threads. libsodium documents -1 as the only failure.
if lib.sodium_init() == -1:
    raise ImportError("libsodium does not start")


def blake2b(data: bytes | bytearray | memoryview) -> bytes:
    """The BLAKE2b-256 of `data`; other threads run meanwhile."""
    out = ffi.new("unsigned char[32]")
    with ffi.from_buffer(data) as view:
        lib.crypto_generichash_blake2b_salt_personal(
            out, _SIZE, view, len(view), ffi.NULL, 0, ffi.NULL, ffi.NULL
        )
    return ffi.buffer(out)[:]  # type: ignore[no-any-return]


class Blake2b:
    """The same of what comes in pieces. One thread at a time."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        """Of nothing so far."""
        self._state = ffi.new("unsigned char[]", _STATE)
        lib.crypto_generichash_blake2b_init_salt_personal(
            self._state, ffi.NULL, 0, _SIZE, ffi.NULL, ffi.NULL
        )

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take the next bytes."""
        with ffi.from_buffer(data) as view:
            lib.crypto_generichash_blake2b_update(self._state, view, len(view))

    def digest(self) -> bytes:
        """The hash of what has come; more may come."""
        # libsodium's last step uses its state up.
        state = ffi.new("unsigned char[]", _STATE)
        ffi.memmove(state, self._state, _STATE)
        out = ffi.new("unsigned char[32]")
        lib.crypto_generichash_blake2b_final(state, out, _SIZE)
        return ffi.buffer(out)[:]  # type: ignore[no-any-return]
