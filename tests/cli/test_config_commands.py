"""`mesh config`: one table of settings is what help, file, docs and checks are made of."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mesh.config import Config, load
from mesh.settings import SECTIONS, SETTINGS
from tests.processes import mesh

ROOT = Path(__file__).parents[2]

# One wrong value for each setting that can have one by itself.
WRONG = {
    "listen": '"a b"',
    "data": '""',
    "peers": '["a/b"]',
    "key_file": '"/nowhere/at/all"',
    "peer_key_file": '"/nowhere/at/all"',
    "blobstash": '"yes"',
    "blobstash_listing": '"other"',
    "name": '"two words"',
    "backend": '"curio"',
    "interval_seconds": "0",
    "max_blob_bytes": "0",
    "max_replica_bytes": '"1KiB"',
    "reserve_bytes": "-1",
    "sketch_cells": "1",
    "shutdown_seconds": "-1",
    "insecure": "1",
    "read_through": "0",
    "scrub_bytes_per_second": "1",
    "scrub_days": "0",
    "node_id": '"f"',
    "host_names": '["a:1"]',
}


def said(*args: str | Path, code: int = 0, env: dict[str, str] | None = None) -> str:
    done = mesh("config", *args, env=env)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode()


def rows() -> list[str]:
    """The table in docs/operations.md, as it follows from the table of settings."""
    return [
        f"| {s.key} | {f'`{s.flag}`' if s.flag else ''} | {s.variable} | {s.shown_default} "
        f"| {s.about}{'; *reloads*' if s.reloads else ''} |"
        for _, settings in SECTIONS
        for s in settings
    ]


def test_the_table_has_every_setting_and_its_default() -> None:
    fields = msgspec.structs.fields(Config)
    assert set(SETTINGS) == {field.name for field in fields} == set(WRONG)
    usual = msgspec.structs.asdict(Config())
    for key, setting in SETTINGS.items():
        if not setting.default:
            assert usual[key] is None
            assert setting.unset, key
        assert setting.about.endswith(".") is False


def test_the_docs_have_the_table() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = text.partition("| key | flag |")[2].partition("\n\n")[0].splitlines()[2:]
    assert table == rows()


def test_the_help_of_a_node_has_each_flag_with_its_default() -> None:
    help_text = " ".join(mesh("run", "--help").stdout.decode().split())
    for setting in SETTINGS.values():
        for flag in filter(None, setting.flag.split("/")):
            assert flag in help_text
            assert f"{setting.about}; default {setting.shown_default}" in help_text


def test_the_file_that_is_printed_loads_and_changes_nothing(tmp_path: Path) -> None:
    text = said("init")
    assert (ROOT / "examples" / "mesh.toml").read_text("utf-8") == text
    file = tmp_path / "mesh.toml"
    file.write_text(text, "utf-8")
    assert load(file, {}, {}) == Config()
    assert said("check", file) == "ok\n"
    assert max(map(len, text.splitlines())) <= 100


def test_with_all_its_lines_in_force_it_is_still_the_default(tmp_path: Path) -> None:
    lines = re.findall(r"^#(\w+ = .*)$", said("init"), re.MULTILINE)
    assert [line.split()[0] for line in lines] == list(SETTINGS)
    usual = [line for line in lines if not SETTINGS[line.split()[0]].example]
    file = tmp_path / "mesh.toml"
    file.write_text("\n".join(usual), "utf-8")
    assert load(file, {}, {}) == Config()
    for line in lines:
        key = line.split()[0]
        if "/etc/" not in line:  # a file that is not here
            file.write_text(line, "utf-8")
            assert said("check", file) == "ok\n", key


def test_what_is_in_force_and_where_it_comes_from(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("very-secret\n")
    file = tmp_path / "mesh.toml"
    file.write_text(
        f'name = "from-file"\nkey_file = "{keys}"\ninterval_seconds = 5\n'
        f'peers = [{{ url = "c", direction = "pull" }}, "blobstash+http://:very-secret@d"]\n'
    )
    env = {"MESH_INTERVAL_SECONDS": "7", "MESH_RESERVE_BYTES": "1GiB"}
    args = ["--config", file, "--name", "from-flag", "--max-blob", "2MiB"]
    shown: dict[str, Any] = json.loads(said("show", "--json", *args, env=env))
    assert list(shown) == list(SETTINGS)
    facts = {key: (each["value"], each["origin"]) for key, each in shown.items()}
    assert facts["name"] == ("from-flag", "--name")
    assert facts["interval_seconds"] == (7.0, "MESH_INTERVAL_SECONDS")
    assert facts["reserve_bytes"] == (1024**3, "MESH_RESERVE_BYTES")
    assert facts["max_blob_bytes"] == (2 * 1024**2, "--max-blob")
    assert facts["key_file"] == (str(keys), str(file))
    assert facts["listen"] == ("127.0.0.1:7280", "default")
    assert facts["peers"][0] == [{"url": "c", "direction": "pull"}, "…@d"]
    text = said("show", *args, env=env)
    assert "very-secret" not in text + json.dumps(shown)
    assert re.search(r'^name = "from-flag" +# --name$', text, re.MULTILINE)
    assert len(text.splitlines()) == len(SETTINGS)
    # It is TOML, and says the same to a node.
    values = tomllib.loads(text)
    assert {key: values.get(key) for key in SETTINGS} == {k: v for k, (v, _) in facts.items()}
    assert mesh("config", "show", "--name", "two words").returncode == 2


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    lines = [f"{key} = {value}" for key, value in WRONG.items()]
    file.write_text("\n".join([*lines, "intervall = 3", 'peers2 = "x"']), "utf-8")
    found = said("check", file, code=1, env={"MESH_PEER": "a"}).splitlines()
    for mark in (
        *("cannot listen", "data is empty", "not a peer", "blobstash_listing", "name is up to"),
        *("unknown backend", "an interval", "max_replica_bytes is", "a reserve", "a sketch of"),
        *("a shutdown of", "`$.blobstash`", "`$.insecure`", "`$.read_through`", "a scrub of"),
        *("a scrub each", "node_id", "key 'intervall'", "key 'peers2'", "'MESH_PEER'"),
    ):
        assert sum(mark in line for line in found) == 1, (mark, found)
    assert sum("cannot read key file" in line for line in found) == 2
    assert len(set(found)) == len(found)
    assert all(line.isprintable() for line in found)


@pytest.mark.parametrize("key", WRONG)
def test_each_error_is_also_told_alone(tmp_path: Path, key: str) -> None:
    file = tmp_path / "mesh.toml"
    # Below every limit of replication, so that one of these is wrong by itself.
    small = "" if key == "max_blob_bytes" else "max_blob_bytes = 1000\n"
    file.write_text(f"{small}{key} = {WRONG[key]}", "utf-8")
    assert len(said("check", file, code=1).splitlines()) == 1


def test_a_variable_that_is_ignored_is_named_once() -> None:
    done = mesh("config", "show", env={"MESH_SOMETHING_ELSE": "1"})
    assert done.returncode == 0
    assert done.stderr.count(b"is ignored") == 1


def test_each_bad_peer_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('peers = ["a", "b:0", 3, "x=c", "d/e", "x=f"]\nkey_file = "/nowhere"')
    found = said("check", file, code=1)
    for mark in ("'b:0'", "'d/e'", "got `int`", "/nowhere"):
        assert mark in found
    assert len(found.splitlines()) == 4
    file.write_text('peers = ["x=c", "x=f"]')
    assert "two peers are called 'x'" in said("check", file, code=1)
    file.write_text('listen = "0.0.0.0:1"\nkey_file = "/nowhere"')
    assert len(said("check", file, code=1).splitlines()) == 1, "the key was meant to be there"


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("listen = ")
    assert "is not TOML" in said("check", file, code=1)
    assert "cannot read" in said("check", tmp_path / "none", code=1)
    assert said("check") == "ok\n"
    assert "MESH_INTERVAL_SECONDS" in said("check", code=1, env={"MESH_INTERVAL_SECONDS": "x"})
    assert os.listdir(tmp_path) == ["mesh.toml"]
