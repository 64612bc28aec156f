"""Put a configuration together: file < environment < flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mesh.config.names import check_key, in_environment
from mesh.config.peers import split_peers
from mesh.config.ranges import check
from mesh.config.schema import Config
from mesh.config.sizes import parse_size
from mesh.decoding import from_toml
from mesh.errors import ConfigError, Undecodable


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration from its three sources; ConfigError names what is wrong and where.

    Flags that are None were not given. The environment's names are the keys in capitals behind
    MESH_ (MESH_INTERVAL_SECONDS); peers are separated by commas. Other names behind MESH_ are
    errors when they look like one of these misspelt (names.py), and ignored otherwise.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values.update(_from_file(file))
    for variable, text in environ.items():
        key = in_environment(variable, text)
        if key is not None:
            values[key] = _parsed(key, text, variable)
    values.update({key: value for key, value in flags.items() if value is not None})
    try:
        config = msgspec.convert(values, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"bad configuration: {error}") from error
    check(config)
    return config


def _from_file(file: Path) -> dict[str, Any]:
    try:
        values = from_toml(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except Undecodable as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    for key in values:
        check_key(key, str(file))
        if _is_size(key) and isinstance(values[key], str):
            values[key] = parse_size(values[key])
    return values


def _parsed(key: str, text: str, where: str) -> Any:
    if key == "peers":
        return split_peers(text)
    if _is_size(key):
        return parse_size(text)
    if key.endswith(("_seconds", "_days")):
        try:
            return float(text)
        except ValueError:
            unit = key.rpartition("_")[2]
            raise ConfigError(f"{where} is '{text}'; expected a number of {unit}") from None
    if key == "sketch_cells":
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise ConfigError(f"{where} is '{text}'; expected a number of cells")
        return int(text)
    if key in ("insecure", "blobstash", "read_through"):
        if text.lower() not in ("0", "1", "true", "false", "yes", "no"):
            raise ConfigError(f"{where} is '{text}'; expected 1 or 0")
        return text.lower() in ("1", "true", "yes")
    return text


def _is_size(key: str) -> bool:
    return key.endswith(("_bytes", "_bytes_per_second"))
