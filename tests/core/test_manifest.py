"""The manifest: canonical, byte-exact, and deaf to everything that is not a tree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import manifest
from mesh.core.digest import Digest, digest_of
from mesh.core.manifest import Directory, Entry, File, Link, Manifest, components, decode, encode
from mesh.errors import InputError

DIGEST = digest_of(b"hello")
DOCS = Path(__file__).parents[2] / "docs" / "manifest.md"

# Names are any bytes; the sampled ones are those that sort or print in unexpected ways.
names = st.one_of(
    st.binary(min_size=1, max_size=5),
    st.text(min_size=1, max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"a", b"a-b", b"a.b", b"-", b"...", b"\xff", b"\n", b'"\\', b"\xed\xa0\x80"]),
).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name))
modes = st.integers(0, manifest.MAX_MODE)
targets = st.binary(min_size=1, max_size=9).filter(lambda target: b"\0" not in target)
leaves = st.one_of(
    st.builds(
        lambda mode, size, digest: lambda path: File(path, mode, size, Digest(digest)),
        modes,
        st.integers(0, manifest.MAX_SIZE),
        st.binary(min_size=32, max_size=32),
    ),
    st.builds(lambda target: lambda path: Link(path, target), targets),
)
nodes = st.recursive(
    leaves,
    lambda below: st.tuples(modes, st.dictionaries(names, below, max_size=4)),
    max_leaves=12,
)


def flat(prefix: bytes, below: dict[bytes, Any]) -> list[Entry]:
    """The entries of a tree drawn from `nodes`."""
    entries: list[Entry] = []
    for name, node in below.items():
        path = prefix + name
        if isinstance(node, tuple):
            entries += [Directory(path, node[0]), *flat(path + b"/", node[1])]
        else:
            entries.append(node(path))
    return entries


trees = st.dictionaries(names, nodes, max_size=4).map(lambda below: flat(b"", below))


def as_json(*entries: object, **top: object) -> bytes:
    """What the standard library makes of the same format: an oracle, and a forger's tool."""
    value = {"mesh": "tree", "version": 1, "entries": list(entries)} | top
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


def file_json(path: str = "a", **changes: object) -> dict[str, object]:
    entry = {"kind": "file", "path": path, "mode": 0o644, "size": 5, "digest": DIGEST.hex()}
    return entry | changes


def directory_json(path: str, mode: int = 0o755) -> dict[str, object]:
    return {"kind": "directory", "path": path, "mode": mode}


def link_json(path: str, target: str) -> dict[str, object]:
    return {"kind": "link", "path": path, "target": target}


# --- good ones -------------------------------------------------------------------------------


@given(trees, st.randoms())
def test_a_tree_has_one_encoding_and_comes_back(entries: list[Entry], random: Any) -> None:
    data = encode(entries)
    decoded = decode(data)
    assert decoded.entries == tuple(sorted(entries, key=lambda entry: entry.path))
    random.shuffle(entries)
    assert encode(entries) == data


@given(trees)
def test_the_encoding_is_what_another_json_library_writes(entries: list[Entry]) -> None:
    def spelled(field: str, name: bytes) -> dict[str, object]:
        try:
            return {field: name.decode()}
        except UnicodeDecodeError:
            return {f"{field}_hex": name.hex()}

    def value(entry: Entry) -> dict[str, object]:
        path = spelled("path", entry.path)
        match entry:
            case File(_, mode, size, digest):
                return path | {"kind": "file", "mode": mode, "size": size, "digest": digest.hex()}
            case Directory(_, mode):
                return path | {"kind": "directory", "mode": mode}
            case Link(_, target):
                return path | {"kind": "link"} | spelled("target", target)

    values = [value(entry) for entry in sorted(entries, key=lambda entry: entry.path)]
    assert encode(entries) == as_json(*values)


def test_the_empty_tree() -> None:
    assert encode([]) == b'{"entries":[],"mesh":"tree","version":1}\n'
    assert decode(encode([])) == Manifest(())


def test_entries_by_kind_parents_first() -> None:
    entries = [
        Link(b"z", b"a/b"),
        File(b"a/b/c", 0o644, 5, DIGEST),
        Directory(b"a/b", 0o700),
        Directory(b"a", 0o755),
        File(b"a-", 0o644, 5, DIGEST),
    ]
    tree = decode(encode(entries))
    assert [entry.path for entry in tree.entries] == [b"a", b"a-", b"a/b", b"a/b/c", b"z"]
    assert [entry.path for entry in tree.files()] == [b"a-", b"a/b/c"]
    assert [entry.path for entry in tree.directories()] == [b"a", b"a/b"]
    assert [entry.path for entry in tree.links()] == [b"z"]


def test_the_documented_example() -> None:
    text = DOCS.read_text()
    block = re.search(r"```json\n(.*?\n)```", text, re.DOTALL)
    assert block
    data = block[1].encode()
    assert digest_of(data).hex() in text
    entries = decode(data).entries
    assert encode(reversed(entries)) == data
    assert {type(entry) for entry in entries} == {File, Directory, Link}
    assert any(b"\xe9" in entry.path for entry in entries)


@pytest.mark.parametrize("limit", [manifest.MAX_BYTES, manifest.MAX_SIZE, manifest.MAX_MODE])
def test_the_documented_limits(limit: int) -> None:
    assert f"{limit:,}" in DOCS.read_text()


# --- bad ones --------------------------------------------------------------------------------

HOSTILE = {
    "parent": [file_json("../x")],
    "parent inside": [directory_json("a"), file_json("a/../../x")],
    "parent at the end": [directory_json("a"), directory_json("a/..")],
    "absolute": [file_json("/etc/x")],
    "empty path": [file_json("")],
    "the root itself": [directory_json(".")],
    "dot inside": [directory_json("a"), file_json("a/./x")],
    "empty component": [directory_json("a"), file_json("a//x")],
    "trailing slash": [directory_json("a"), directory_json("a/")],
    "NUL": [file_json("a\0b")],
    "NUL in hex": [{"kind": "directory", "mode": 0, "path_hex": "ff00"}],
    "below a link": [link_json("d", "/tmp"), file_json("d/x")],
    "below a file": [file_json("a"), file_json("a/b")],
    "below nothing": [file_json("a/b")],
    "parent comes later": [file_json("a/b"), directory_json("a")],
    "twice": [file_json("a"), file_json("a")],
    "twice as other kinds": [directory_json("a"), link_json("a", "/")],
    "not sorted": [file_json("b"), file_json("a")],
    "link to nothing": [link_json("a", "")],
    "link to NUL": [link_json("a", "b\0")],
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_tree(entries: list[dict[str, object]]) -> None:
    with pytest.raises(InputError) as caught:
        decode(as_json(*entries))
    assert str(caught.value).isprintable()


MALFORMED = {
    "unknown kind": {"kind": "fifo", "path": "a", "mode": 0},
    "no kind": {"path": "a", "mode": 0},
    "not an object": [],
    "null": None,
    "unknown field": file_json(owner="root"),
    "missing field": link_json("a", "b") | {"kind": "file"},
    "no path": {"kind": "directory", "mode": 0},
    "two paths": file_json(path_hex="ff"),
    "path is null": file_json(path=None),
    "path is a number": file_json(path=1),
    "hex path that is text": {"kind": "directory", "mode": 0, "path_hex": "61"},
    "hex path in capitals": {"kind": "directory", "mode": 0, "path_hex": "FF"},
    "hex path that is not hex": {"kind": "directory", "mode": 0, "path_hex": "zz"},
    "hex path with blanks": {"kind": "directory", "mode": 0, "path_hex": "ff fe"},
    "two targets": link_json("a", "b") | {"target_hex": "ff"},
    "short digest": file_json(digest="00"),
    "digest in capitals": file_json(digest=DIGEST.hex().upper()),
    "digest is a number": file_json(digest=0),
    "negative size": file_json(size=-1),
    "size 2**63": file_json(size=2**63),
    "size 2**64": file_json(size=2**64),
    "size of 400 digits": file_json(size=10**400),
    "size is a float": file_json(size=5.0),
    "size is infinite": file_json(size=float("inf")),
    "size is true": file_json(size=True),
    "size is text": file_json(size="5"),
    "negative mode": file_json(mode=-1),
    "mode with the type of a file": file_json(mode=0o100644),
    "mode of a directory": directory_json("a", mode=0o10000),
}


@pytest.mark.parametrize("entry", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_entry(entry: object) -> None:
    with pytest.raises(InputError) as caught:
        decode(as_json(entry))
    assert str(caught.value).isprintable()


GOOD = as_json(directory_json("a"), link_json("b", "c"))

NOT_MANIFESTS = {
    "nothing": b"",
    "not JSON": b"hello\n",
    "not UTF-8": GOOD.replace(b'"c"', b'"\xff"'),
    "half a surrogate": GOOD.replace(b'"c"', rb'"\udc00"'),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "truncated": GOOD[:-2],
    "trailing bytes": GOOD + b"x",
    "nested without end": b'{"entries":[' + b"[" * 1_000_000,
    "a list": b"[]\n",
    "no entries": b'{"mesh":"tree","version":1}\n',
    "entries are an object": as_json(entries={}),
    "unknown field": as_json(comment="x"),
    "another mesh": as_json(mesh="list"),
    "version as text": as_json(version="1"),
    "no newline": GOOD[:-1],
    "two newlines": GOOD + b"\n",
    "carriage return": GOOD[:-1] + b"\r\n",
    "leading blank": b" " + GOOD,
    "blank after a comma": GOOD.replace(b"},{", b"}, {"),
    "blank before a comma": GOOD.replace(b"},{", b"} ,{"),
    "blank in an entry": GOOD.replace(b'"path":', b'"path": '),
    "blank in the end": GOOD.replace(b"],", b"], "),
    "blank in the empty list": as_json().replace(b"[]", b"[ ]"),
    "blank in the empty head": as_json().replace(b'"entries":', b'"entries": '),
    "keys not sorted": b'{"mesh":"tree","version":1,"entries":[]}\n',
    "entry keys not sorted": as_json().replace(
        b"[]", b'[{"path":"a","kind":"directory","mode":1}]'
    ),
    "key twice": GOOD.replace(b'"path":"a"', b'"path":"x","path":"a"'),
    "entries twice": GOOD.replace(b'{"entries"', b'{"entries":[],"entries"', 1),
    "needless escape": GOOD.replace(b'"c"', rb'"\u0063"'),
    "escaped slash": GOOD.replace(b'"c"', rb'"\/"'),
    "escape in capitals": as_json(link_json("b", "\x1f")).replace(b"001f", b"001F"),
    "number with exponent": GOOD.replace(b'"mode":493', b'"mode":493e0'),
    "negative zero": as_json(directory_json("a", 0)).replace(b":0", b":-0"),
}


@pytest.mark.parametrize("data", NOT_MANIFESTS.values(), ids=NOT_MANIFESTS.keys())
def test_not_a_canonical_manifest(data: bytes) -> None:
    assert data not in (GOOD, as_json())  # the good ones that they were made from
    with pytest.raises(InputError) as caught:
        decode(data)
    assert str(caught.value).isprintable()


@given(st.binary(max_size=3), st.integers(0, len(GOOD)), st.integers(0, 3))
def test_whatever_decodes_is_canonical(patch: bytes, at: int, cut: int) -> None:
    data = GOOD[:at] + patch + GOOD[at + cut :]
    try:
        entries = decode(data).entries
    except InputError:
        return
    assert encode(entries) == data


def test_another_version_is_named_whatever_else_it_holds() -> None:
    with pytest.raises(InputError, match=r"version 2, .* upgrade"):
        decode(as_json(version=2, entries={"packed": True}, more=[]))


def test_a_bad_entry_is_named_by_its_number() -> None:
    with pytest.raises(InputError, match=r"^manifest entry 1: .*mode"):
        decode(as_json(file_json("a"), file_json("b", mode="0644")))


def test_too_large() -> None:
    tree = [Directory(b"a", 0o755)]
    data = encode(tree)
    assert decode(encode(tree, max_bytes=len(data)), max_bytes=len(data)).entries == tuple(tree)
    with pytest.raises(InputError, match="more than"):
        decode(data, max_bytes=len(data) - 1)
    with pytest.raises(InputError, match="put the parts"):
        encode(tree, max_bytes=len(data) - 1)


def test_the_default_limit_is_looked_at_before_anything_else() -> None:
    with pytest.raises(InputError, match="more than 536870912"):
        decode(bytes(manifest.MAX_BYTES + 1))


@pytest.mark.parametrize(
    "entries",
    [
        [File(b"../x", 0o644, 5, DIGEST)],
        [File(b"a", 0o644, 5, DIGEST), File(b"a", 0o644, 5, DIGEST)],
        [File(b"a/b", 0o644, 5, DIGEST)],
        [Link(b"d", b"/tmp"), File(b"d/x", 0o644, 5, DIGEST)],
        [File(b"a", 0o644, -1, DIGEST)],
        [File(b"a", 0o644, 2**63, DIGEST)],
        [File(b"a", 0o100644, 5, DIGEST)],
        [File(b"a", 0o644, 5, Digest(b"short"))],
        [Link(b"a", b"")],
    ],
)
def test_encode_refuses_what_decode_would(entries: list[Entry]) -> None:
    with pytest.raises(InputError):
        encode(entries)


@given(st.binary(max_size=8))
def test_components_never_leave(path: bytes) -> None:
    try:
        parts = components(path)
    except InputError:
        return
    assert b"/".join(parts) == path
    assert not {b"", b".", b".."} & set(parts)
    assert b"\0" not in path


def test_names_are_shown_on_one_line_and_not_for_ever() -> None:
    assert manifest.shown("M\u00fcller\n\u202e".encode() + b"\xff") == r"'Müller\n\u202e\udcff'"
    assert len(manifest.shown(b"a" * 1_000_000)) == 202
