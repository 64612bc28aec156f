"""Lines of a key file: what they say, and that an error about one shows nothing of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mesh.config import PLAIN, ROLES, Key, Secret, exposed, named_keys, parse_keys
from mesh.config.peers import shared
from mesh.errors import ConfigError

names = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII), fullmatch=True)
# None of them looks like a name of ours, and none begins a comment.
secrets = st.binary(min_size=1, max_size=40).map(lambda data: b"+" + data.hex().encode())
roles = st.sets(st.sampled_from(ROLES), min_size=1)
named = st.tuples(names, roles, secrets)
blanks = st.text(" \t", min_size=1, max_size=3)


@given(st.lists(named | secrets, unique_by=(lambda e: e if isinstance(e, bytes) else e[2])), blanks)
def test_what_is_written_is_read(entries: list, blank: str) -> None:
    taken = [entry[0] for entry in entries if isinstance(entry, tuple)]
    assume(len(set(taken)) == len(taken) and not any(name.startswith("key-") for name in taken))
    lines, wanted = [b"# a comment", b"", b"  "], []
    for number, entry in enumerate(entries, 1):
        if isinstance(entry, bytes):
            lines.append(entry)
            wanted.append(Key(f"key-{number}", PLAIN, Secret(entry)))
            continue
        name, some, secret = entry
        lines.append(blank.join([name, ",".join(sorted(some)), secret.decode()]).encode())
        every = frozenset(ROLES) if "admin" in some else frozenset(some)
        wanted.append(Key(name, every, Secret(secret)))
    assert parse_keys(lines, "FILE") == tuple(wanted)


@given(st.lists(st.binary(max_size=60) | named.map(lambda e: f"{e[0]} {e[2]!a} x".encode())))
def test_any_line_is_keys_or_one_error_that_shows_none_of_it(lines: list[bytes]) -> None:
    try:
        keys = parse_keys(lines, "FILE")
    except ConfigError as error:
        said = str(error)
        assert re.match(r"key \d+ in FILE ", said)
        for word in b" ".join(lines).split():
            if len(word) > 14:  # longer than any word of ours
                assert word.decode("latin-1") not in said
        assert "\n" not in said
        return
    assert len({key.name for key in keys}) == len(keys)
    for key in keys:
        assert key.roles <= set(ROLES)
        assert key.secret.reveal() in b" ".join(lines)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b"two words"], "key 1 in FILE has blanks; a line is a key alone, or NAME ROLES KEY"),
        ([b"a b c d"], "has blanks"),
        ([b"one", b"n read,reed SECRET"], "key 2 in FILE has roles that there are not"),
        ([b"n READ SECRET"], "there are read, write, append, peer, admin"),
        ([b"n read, SECRET"], "roles that there are not"),
        ([b"SECRET read n/a"], None),  # a name may look like a key, and a key like anything
        ([b"-n read SECRET"], "has a bad name"),
        ([b"n read SECRET", b"n write OTHER"], "key 2 in FILE is called n, as another one is"),
        ([b"n read SECRET", b"m read SECRET"], "is the same as the key n"),
        ([b"SECRET", b"m read,write,peer SECRET"], None),  # they say the same
        ([b"SECRET", b"SECRET"], None),  # as before there were names
        ([b"key-2 read SECRET", b"OTHER"], "is called key-2"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(lines: list[bytes], words: str | None) -> None:
    if words is None:
        assert parse_keys(lines, "FILE")
        return
    with pytest.raises(ConfigError) as caught:
        parse_keys(lines, "FILE")
    assert words in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_the_roles_are_said_as_they_are_written() -> None:
    keys = parse_keys([b"one", b"a peer,read TWO", b"b read,admin THREE"], "FILE")
    assert [key.said for key in keys] == ["read,write,peer", "read,peer", "admin"]
    assert "TWO" not in repr(keys)


@pytest.mark.parametrize(
    ("mode", "good"), [(0o600, True), (0o640, True), (0o400, True), (0o644, False), (0o660, False)]
)
def test_a_file_that_others_can_read_is_noticed(tmp_path: Path, mode: int, good: bool) -> None:
    file = tmp_path / "keys"
    file.write_text("key\n")
    file.chmod(mode)
    said = exposed(str(file))
    assert (said is None) == good
    if said is not None:
        assert str(file) in said
        assert "chmod 600" in said
    assert named_keys(str(file))


def test_what_is_no_file_has_no_mode_that_says_anything(tmp_path: Path) -> None:
    assert exposed(str(tmp_path)) is None
    assert exposed(str(tmp_path / "absent")) is None
    assert exposed("nul\0") is None


@pytest.mark.parametrize(
    ("shown", "lines", "wanted"),
    [
        (None, [], None),
        (b"K", [], b"K"),
        (None, [b"c read R", b"K", b"L"], b"K"),
        (None, [b"c read R"], None),  # what a client has is nothing that nodes share
        (b"K", [b"K"], b"K"),  # the simplest mesh
        (b"K", [b"mine"], b"K"),  # a spoke, whose own clients have another key
        (b"B", [b"x append X", b"a peer A", b"b peer B"], b"A"),  # a key for each node, in one file
        (b"A", [b"x append X", b"a peer A", b"b peer B"], b"A"),
        (b"X", [b"x append X", b"a peer A"], b"X"),
        (b"B", [b"boss admin S", b"a peer A", b"b peer B"], b"A"),
        (b"L", [b"K", b"L"], b"L"),  # as before there were roles: files that differ in other keys
        (b"L", [b"K", b"a peer A", b"L"], b"L"),
    ],
)
def test_what_nodes_share(shown: bytes | None, lines: list[bytes], wanted: bytes | None) -> None:
    found = shared(Secret(shown) if shown else None, parse_keys(lines, "FILE"))
    assert (found.reveal() if found else None) == wanted
