"""Sizes as people write them."""

from __future__ import annotations

import re

from mesh.errors import ConfigError

GIB = 1024**3

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40,
}  # fmt: skip
# At most 18 digits: an exabyte, and no overflow.
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_size(text: str) -> int:
    """A number of bytes: `1GiB`, `500 MB`, `4096`; K, M, G, T alone are binary."""
    match = _SIZE.fullmatch(text)
    unit = match[2].lower() if match else ""
    if not match or unit not in _UNITS:
        raise ConfigError(f"not a size: {text!a}; expected for example 4096, 500MB or 1GiB")
    return int(float(match[1]) * _UNITS[unit]) if "." in match[1] else int(match[1]) * _UNITS[unit]
