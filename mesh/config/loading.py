"""Put a configuration together: file < environment < flags."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mesh.config.names import check_key, in_environment
from mesh.config.peers import split_peers
from mesh.config.ranges import problems_of
from mesh.config.schema import Config
from mesh.config.sizes import parse_size
from mesh.decoding import from_toml
from mesh.errors import ConfigError, Undecodable
from mesh.settings import SETTINGS


class Sources(NamedTuple):
    """Where settings come from; the later one wins. Flags that are None were not given.

    The environment's names are the keys in capitals behind MESH_ (MESH_INTERVAL_SECONDS); peers are
    separated by commas. Other names behind MESH_ are errors when they look like one of these
    misspelt (names.py), and ignored otherwise.
    """

    file: Path | None
    environ: Mapping[str, str]
    flags: Mapping[str, Any]


class Given(NamedTuple):
    """The value of a setting, and where it was given."""

    value: Any
    origin: str


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The configuration from its three sources; ConfigError names what is wrong and where."""
    values = {key: each.value for key, each in given(Sources(file, environ, flags)).items()}
    try:
        config = msgspec.convert(values, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"bad configuration: {error}") from error
    for problem in problems_of(config):
        raise ConfigError(problem)
    return config


def problems(sources: Sources) -> list[str]:
    """All that is wrong with a configuration, one line each; none when a node can start with it."""
    found: list[str] = []
    good: dict[str, Any] = {}
    values = given(sources, lambda error: found.append(str(error)))
    for key, each in values.items():
        wrong = list(_wrong(key, each.value))
        found += [f"{each.origin}: {key}: {text}" for text in wrong]
        if not wrong:
            good[key] = each.value
    if "key_file" in values and "key_file" not in good:
        good["insecure"] = True  # a key was meant: that it is missing has been said
    try:
        found += problems_of(msgspec.convert(good, Config, strict=True))
    except ConfigError as error:  # two peers of one name
        found.append(str(error))
    return found


def _wrong(key: str, value: Any) -> Iterator[str]:
    """What is wrong with the value of one setting, seen alone; of peers, with each of them."""
    if key == "peers" and isinstance(value, list | tuple) and len(value) > 1:
        for each in value:
            yield from _wrong(key, (each,))
        return
    try:
        msgspec.convert({key: value}, Config, strict=True)
    except msgspec.ValidationError as error:
        yield f"bad value: {error}"
    except ConfigError as error:
        yield str(error)


def _raise(error: ConfigError) -> None:
    raise error


def given(
    sources: Sources, complain: Callable[[ConfigError], None] = _raise, *, warn: bool = True
) -> dict[str, Given]:
    """The settings that are given anywhere, as values of Config, or of a wrong type.

    `complain` gets the error about each one that cannot be read; it is then left out. `warn`: log
    which variables are ignored.
    """
    values: dict[str, Given] = {}
    if sources.file is not None:
        try:
            table = _table(sources.file)
        except ConfigError as error:
            complain(error)
            table = {}
        for key, value in table.items():
            try:
                check_key(key, str(sources.file))
                if _is_size(key) and isinstance(value, str):
                    value = parse_size(value)
                values[key] = Given(value, str(sources.file))
            except ConfigError as error:
                complain(error)
    for variable, text in sources.environ.items():
        try:
            if (name := in_environment(variable, text, warn=warn)) is not None:
                values[name] = Given(_parsed(name, text, variable), variable)
        except ConfigError as error:
            complain(error)
    for key, value in sources.flags.items():
        if value is not None:
            values[key] = Given(value, _flag(key))
    return values


def origins(sources: Sources) -> dict[str, str]:
    """Where each setting that is given was given; whoever loads them has warned already."""
    return {key: each.origin for key, each in given(sources, warn=False).items()}


def _flag(key: str) -> str:
    setting = SETTINGS.get(key)
    return setting.flag.partition("/")[0] if setting is not None else key


def _table(file: Path) -> dict[str, Any]:
    try:
        return from_toml(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except Undecodable as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error


def _parsed(key: str, text: str, where: str) -> Any:
    if key == "peers":
        return split_peers(text)
    if key == "host_names":
        return [name.strip() for name in text.split(",") if name.strip()]
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
