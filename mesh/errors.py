"""What can go wrong, named by whose fault it is.

Every message is one line that says what happened, where, and what to do.
"""

from __future__ import annotations


class MeshError(Exception):
    """The root of every error that mesh raises on purpose."""


class ConfigError(MeshError):
    """The configuration or the command line cannot work; nothing was started."""


class Stopping(MeshError):
    """The node is being stopped, and what was asked for would take longer than that."""


class InputError(MeshError):
    """A caller's input is malformed: a digest, a prefix, a range, a manifest."""


class NotFound(MeshError):
    """A blob, or a file of a tree, is neither here nor at a peer that can be reached."""


class Undecodable(InputError):
    """Bytes are not the JSON, MessagePack, text or hex that they should be (mesh/decoding.py).

    It does not say who wrote them. Whoever reads a peer's answer or a file of the store raises the
    error of that fault instead.
    """


class PeerError(MeshError):
    """A round or a transfer with one peer failed; other peers are not affected."""


class Unreachable(PeerError):
    """The peer did not answer, or stopped making progress. Trying again later may help."""


class Stalled(Unreachable):
    """The peer did not break off, it stood still for too long: asking at once is of no use."""


class Misbehaved(PeerError):
    """The peer said something that cannot be true. Its fault, not the network's."""


class Refused(PeerError):
    """The peer understood and declined: busy, another protocol version, not a node of ours.

    `retry_after` is the peer's own wish in seconds, or None; `status` the HTTP status of its
    answer, or None where there was none.
    """

    def __init__(
        self, message: str, retry_after: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status


class TooMuch(Refused):
    """The body was larger than the peer, or a proxy before it, takes: send less at once."""


class StoreError(MeshError):
    """The local store failed; what was acknowledged before is not affected."""


class Corrupt(StoreError):
    """Bytes at rest are not the blob that their name says."""


class Gone(StoreError):
    """The data directory, or a part of it, is not where it was: removed, moved or unmounted."""


class Full(StoreError):
    """The disk has no room. Reads go on; writes work again when there is space."""


class TooLarge(Full):
    """The disk has room, but not for this blob."""


class ReadOnly(StoreError):
    """The disk takes no writes. Reads go on; writes work again when it does."""


def innermost(error: BaseException) -> BaseException:
    """The first error of a group, of a group in a group, and so on; any other error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def one_line(error: BaseException) -> str:
    """An error as one printable line: control characters, also a peer's, are escaped."""
    text = str(error) or type(error).__name__
    return printable(text)


def printable(text: str) -> str:
    """`text` with everything that could move a terminal's cursor or forge a log line escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
