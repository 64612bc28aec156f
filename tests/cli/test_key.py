"""`mesh key` on real files."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest

from mesh.config import named_keys
from tests.processes import mesh

KEY = re.compile(rb"[0-9a-f]{64}\n")


def key(*words: str, code: int = 0) -> tuple[bytes, str]:
    """What `mesh key` prints, and what it says on standard error."""
    done = mesh("key", *words)
    said = done.stderr.decode()
    assert done.returncode == code, said
    if code:
        assert said.startswith("mesh: ")
        assert said.count("\n") == 1
    return done.stdout, said


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_a_key_is_made_listed_and_removed(tmp_path: Path) -> None:
    file = str(tmp_path / "mesh.key")
    printed, _ = key("new", "mesh", "--key-file", file)
    assert KEY.fullmatch(printed)
    assert mode(tmp_path / "mesh.key") == 0o600
    laptop = tmp_path / "laptop.key"
    out = key("new", "laptop", "--roles", "append", "--key-file", file, "-o", str(laptop))
    assert out == (b"", "")
    assert mode(laptop) == 0o600
    assert KEY.fullmatch(laptop.read_bytes())
    first, second = named_keys(file)
    assert (first.name, first.said) == ("mesh", "read,write,peer")
    assert first.secret.reveal() == printed.strip()
    assert (second.name, second.said) == ("laptop", "append")
    assert second.secret.reveal() == laptop.read_bytes().strip() != printed.strip()

    table, said = key("list", "--key-file", file)
    assert table.decode().split("\n") == [
        "NAME    ROLES", "mesh    read,write,peer", "laptop  append", "",
    ]  # fmt: skip
    assert said == ""
    listed = json.loads(key("list", "--json", "--key-file", file)[0])
    assert listed == {
        "keys": [
            {"name": "mesh", "roles": ["read", "write", "peer"]},
            {"name": "laptop", "roles": ["append"]},
        ]
    }
    assert b"laptop is removed" in key("remove", "laptop", "--key-file", file)[0]
    assert named_keys(file) == (first,)
    said = key("remove", "mesh", "--key-file", file, code=2)[1]
    assert "the only key" in said
    assert named_keys(file) == (first,)
    assert os.listdir(tmp_path) == ["mesh.key", "laptop.key"] or len(os.listdir(tmp_path)) == 2


def test_the_rest_of_a_file_stays_as_it_is(tmp_path: Path) -> None:
    text = b"# for all\r\n\nOLD1\n# the laptop's\nlaptop  append\tOLD2\nOLD3"
    file, link = tmp_path / "keys", tmp_path / "link"
    file.write_bytes(text)
    file.chmod(0o640)
    link.symlink_to(file)
    made = key("new", "ann", "--roles", "admin", "--key-file", str(link))[0]
    assert file.read_bytes() == text + b"\nann admin " + made
    key("remove", "laptop", "--key-file", str(link))
    kept = text.replace(b"laptop  append\tOLD2\n", b"")
    assert file.read_bytes() == kept + b"\nann admin " + made
    key("remove", "key-2", "--key-file", str(link))
    assert file.read_bytes() == kept.replace(b"OLD3", b"") + b"ann admin " + made
    assert link.is_symlink()
    assert mode(file) == 0o640


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    environment = {"MESH_KEY_FILE": str(tmp_path / "keys")}
    assert mesh("key", "new", "a", env=environment).returncode == 0
    assert b"a " in mesh("key", "list", env=environment).stdout


def test_a_file_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("a read SECRET\n")
    file.chmod(0o644)
    table, said = key("list", "--key-file", str(file))
    assert b"a     read" in table
    assert said.startswith("mesh: others can read or write key file")
    assert "SECRET" not in said + table.decode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("new", "a"), "--key-file FILE"),
        (("list",), "--key-file FILE"),
        (("new", "a/b", "--key-file", "FILE"), "the key a/b has a bad name"),
        (("new", "a", "--roles", "reader", "--key-file", "FILE"), "there are read, write, append"),
        (("new", "a", "--roles", "read,", "--key-file", "FILE"), "roles that there are not"),
        (("new", "there", "--key-file", "FILE"), "is called there, as another one is"),
        (("new", "a", "--key-file", "FILE", "-o", "FILE"), "is there already"),
        (("new", "a", "--key-file", "DIR"), "Is a directory"),
        (("remove", "a", "--key-file", "FILE"), "no key in FILE is called 'a'; there are: there"),
        (("list", "--key-file", "absent"), "No such file"),
        (("list", "--key-file", "BAD"), "has blanks"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "FILE").write_text("there read SECRET\n")
    (tmp_path / "BAD").write_text("two SECRET\n")
    (tmp_path / "DIR").mkdir()
    before = sorted(os.listdir(tmp_path))
    done = mesh("key", *words, cwd=tmp_path)
    assert done.returncode == 2, done
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert b"SECRET" not in done.stdout + done.stderr
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "FILE").read_text() == "there read SECRET\n"
