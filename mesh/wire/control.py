"""The proof that a request to change a node comes from whoever has its control key.

The key itself never travels. The node gives out a nonce, which is good for one request and for a
minute. The client answers with an HMAC over the nonce and the whole request. So whoever listens on
the way, or has a port on which a node was once, learns nothing that helps with another request.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec
from msgspec import UNSET, UnsetType

HEADER = "Mesh-Control"
"""Of the request: the nonce, a blank, and the proof as hex digits."""

CHALLENGE_PATH = "/v1/control/challenge"

CONTROL_FILE = "control.key"
"""The name of the file in the data directory that holds the key."""


class Challenge(msgspec.Struct, frozen=True):
    """What a node gives out: `nonce`, and its data directory as an absolute path.

    The path is `data`, or `data_hex` where it is not UTF-8.
    """

    nonce: str
    data: str | UnsetType = UNSET
    data_hex: str | UnsetType = UNSET


def proof(key: bytes, nonce: str, method: str, path: str, body: bytes) -> str:
    """HMAC-SHA256 with the control key over nonce, method and path, a line each, and the body."""
    head = f"{nonce}\n{method}\n{path}\n".encode()
    return hmac.new(key, head + body, hashlib.sha256).hexdigest()
