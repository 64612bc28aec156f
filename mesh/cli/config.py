"""`mesh config`: a mesh.toml to begin with, what is in force, and what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mesh.config import Shown, Sources, load, origins, problems, shown
from mesh.decoding import utf8
from mesh.errors import printable
from mesh.settings import KINDS, SECTIONS, SETTINGS, Setting

_HEAD = """\
# The settings of a node: mesh run --config mesh.toml
#
# Every setting is here, with its default. To change one, take away the # before its name.
# Options of `mesh run` win over variables in the environment, and these over this file.
# `mesh config check mesh.toml` says what is wrong. `mesh reload` or SIGHUP has a running node read
# the file again; settings that are marked "reloads" take effect then, the others at the next start.
"""


def template() -> str:
    """A mesh.toml that explains every setting, and that changes none."""
    lines = [_HEAD.rstrip("\n")]
    for title, settings in SECTIONS:
        lines += ["", f"# --- {title} ---"]
        for setting in settings:
            lines += ["", *_explained(setting)]
    return "\n".join(lines) + "\n"


def _explained(setting: Setting) -> list[str]:
    about = setting.about[0].upper() + setting.about[1:]
    names = f"{setting.flag}, {setting.variable}" if setting.flag else setting.variable
    facts = [f"Default: {setting.shown_default}"]
    if setting.kind != "text":
        facts.append(f"Value: {KINDS[setting.kind]}")
    facts.append(f"Also: {names}" + ("; reloads" if setting.reloads else ""))
    value = setting.example or setting.default
    return [*(f"# {line}" for line in [f"{about}.", *setting.why, *_ended(facts)]),
            f"#{setting.key} = {value}"]  # fmt: skip


def _ended(facts: list[str]) -> list[str]:
    return [f"{fact}." for fact in facts]


def show(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any], *, as_json: bool
) -> None:
    """Print each setting with its origin; ConfigError when a node could not start with them."""
    config = load(file, environ, flags)
    print_settings(shown(config, origins(Sources(file, environ, flags))), as_json=as_json)


def print_settings(settings: Mapping[str, Shown], *, as_json: bool) -> None:
    """Print each setting with its origin, as TOML or as JSON."""
    if as_json:
        print(utf8(msgspec.json.format(msgspec.json.encode(settings), indent=2)))
        return
    texts = [(_line(key, each.value), each.origin) for key, each in settings.items()]
    width = min(40, max(len(text) for text, _ in texts))
    for text, origin in texts:
        print(f"{text:<{width}}  # {printable(origin)}")


def _line(key: str, value: Any) -> str:
    """A line of TOML; a comment for a setting without a value."""
    if value is None:
        return f"#{key}: {SETTINGS[key].unset}"
    return f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    """A value as TOML, of which JSON's texts, numbers, lists and switches are a part."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return utf8(msgspec.json.encode(value))


def check(file: Path | None, environ: Mapping[str, str]) -> bool:
    """Print "ok", or a line for each thing that is wrong; whether nothing is."""
    found = problems(Sources(file, environ, {}))
    for problem in found:
        print(printable(problem))
    if not found:
        print("ok")
    return not found
