"""Settings as people are shown them: as plain values, with where each came from, without keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mesh.config.peers import PeerEntry, redacted
from mesh.config.schema import Config
from mesh.settings import SETTINGS


class Shown(msgspec.Struct, frozen=True):
    """A setting: its value as JSON and TOML have it, and the file, variable or flag of it."""

    value: Any
    origin: str


def shown(config: Config, origins: Mapping[str, str]) -> dict[str, Shown]:
    """Every setting, in the order of the table; `origins` for those that are not the default."""
    return {key: Shown(_plain(config, key), _text(origins.get(key, "default"))) for key in SETTINGS}


def _text(text: str) -> str:
    """A path that is not UTF-8 is shown with escapes: neither JSON nor TOML could have it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(config: Config, key: str) -> Any:
    value = getattr(config, key)
    if isinstance(value, tuple) and key != "peers":
        return [_text(each) for each in value]
    if key != "peers":
        return _text(value) if isinstance(value, str) else value
    return [redacted(each) if isinstance(each, str) else _table(each) for each in value]


def _table(peer: PeerEntry) -> dict[str, Any]:
    """A peer with what is not as it always is."""
    plain = msgspec.structs.asdict(msgspec.structs.replace(peer, url=redacted(peer.url)))
    usual = msgspec.structs.asdict(PeerEntry(""))
    return {key: value for key, value in plain.items() if value != usual[key]}
