"""The restore: all of the tree, only the tree, and nothing outside the directory."""

from __future__ import annotations

import errno
import os
import resource
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.cli.restore import CannotRestore, Restorer, place_new
from mesh.cli.walk import FoundDirectory, FoundFile, FoundLink, walk
from mesh.core.digest import digest_of
from mesh.core.manifest import Directory, Entry, File, Link, Manifest, decode, encode
from mesh.errors import Corrupt, InputError, MeshError

HELLO = b"hello"
BLOBS = {digest_of(blob): blob for blob in (b"", HELLO, b"jello", b"x" * 3_000_000)}


def a_file(path: bytes, blob: bytes = HELLO, mode: int = 0o644) -> File:
    return File(path, mode, len(blob), digest_of(blob))


def tree(*entries: Entry) -> Manifest:
    """A manifest that went through its encoding, as every real one does."""
    return decode(encode(entries))


def forged(*entries: Entry) -> Manifest:
    """A manifest that `decode` would not have let pass."""
    return Manifest(entries)


def restore(into: Path, manifest: Manifest, *, force: bool = False) -> list[bytes]:
    """What the command does; returns the paths of the files whose bytes had to be brought."""
    brought = []
    with Restorer(into, manifest, force=force) as restorer:
        restorer.directories()
        for entry in manifest.files():
            if not restorer.has(entry):
                bring(restorer, entry)
                brought.append(entry.path)
        restorer.finish()
    return brought


def bring(restorer: Restorer, entry: File) -> None:
    blob = BLOBS[entry.digest]
    write(restorer, entry, *(blob[at : at + 1_000_000] for at in range(0, len(blob), 1_000_000)))


def write(
    restorer: Restorer,
    entry: File,
    *chunks: bytes,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    with restorer.file(entry) as out:
        for chunk in chunks:
            out.write(chunk)
        meanwhile()


def entries_of(directory: Path) -> Iterator[Entry]:
    """The entries of what is on disk: what storing it again would give."""
    for found in walk(directory):
        match found:
            case FoundFile(path, source, mode, size, _):
                with open(source, "rb") as file:
                    yield File(path, mode, size, digest_of(file.read()))
            case FoundDirectory(path, _, mode):
                yield Directory(path, mode)
            case FoundLink(path, _, target):
                yield Link(path, target)
            case _:
                raise AssertionError(found)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that no restore may touch, whatever the test does."""
    directory = tmp_path / "outside"
    (directory / "d").mkdir(parents=True, mode=0o750)
    (directory / "victim").write_bytes(b"precious")
    before = list(entries_of(directory))
    yield directory
    assert list(entries_of(directory)) == before


# --- what is restored ------------------------------------------------------------------------


def test_files_directories_and_links(into: Path) -> None:
    manifest = tree(
        Directory(b"bin", 0o755),
        a_file(b"bin/run", mode=0o755),
        a_file(b"bin/large", b"x" * 3_000_000),
        Directory(b"empty", 0o700),
        a_file(b"nothing", b"", 0o400),
        Link(b"bin/up", b"../nothing"),
        Link(b"away", b"/etc/passwd"),
        Link(b"dangling", b"missing"),
    )
    assert restore(into, manifest) == [b"bin/large", b"bin/run", b"nothing"]
    assert tuple(entries_of(into)) == manifest.entries


def test_read_only_directories(into: Path) -> None:
    manifest = tree(
        Directory(b"a", 0o555),
        Directory(b"a/b", 0o500),
        a_file(b"a/b/f", mode=0o444),
        Link(b"a/b/l", b"f"),
    )
    restore(into, manifest)
    assert tuple(entries_of(into)) == manifest.entries
    assert restore(into, manifest) == []
    assert restore(into, manifest, force=True) == []
    assert tuple(entries_of(into)) == manifest.entries


def test_a_directory_that_nobody_may_enter(into: Path) -> None:
    restore(into, tree(Directory(b"a", 0o000), Directory(b"a/b", 0o000), a_file(b"a/b/f")))
    assert mode_of(into / "a") == 0
    (into / "a").chmod(0o700)
    assert mode_of(into / "a/b") == 0
    (into / "a/b").chmod(0o700)
    assert (into / "a/b/f").read_bytes() == HELLO


def test_modes_are_exact_whatever_the_umask_and_never_set_user_id(into: Path) -> None:
    umask = os.umask(0o077)
    try:
        restore(into, tree(Directory(b"d", 0o7777), a_file(b"d/f", mode=0o6666)))
    finally:
        os.umask(umask)
    assert mode_of(into / "d") == 0o777
    assert mode_of(into / "d/f") == 0o666


def test_names_that_are_not_utf_8(into: Path) -> None:
    manifest = tree(Directory(b"\xff", 0o755), a_file(b"\xff/\xfe\n"), Link(b"l", b"\xff/\xfe\n"))
    restore(into, manifest)
    assert tuple(entries_of(into)) == manifest.entries


def test_the_directory_itself_may_be_a_link_and_may_be_missing(into: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    into.symlink_to("real")
    restore(into / "new" / "er", tree(a_file(b"f")))
    assert (tmp_path / "real/new/er/f").read_bytes() == HELLO


def test_the_directory_is_a_file(into: Path) -> None:
    into.touch()
    with pytest.raises(CannotRestore, match="into"):
        Restorer(into, tree())


names = st.binary(min_size=1, max_size=4).filter(
    lambda name: name not in (b".", b"..") and not {0, 47} & set(name)
)
# The owner must be able to read what comes out, and to delete it.
leaves = st.one_of(
    st.builds(
        lambda blob, mode: lambda path: a_file(path, blob, mode | 0o400),
        st.sampled_from([b"", HELLO, b"jello"]),
        st.integers(0, 0o777),
    ),
    st.binary(min_size=1).filter(lambda t: b"\0" not in t).map(
        lambda target: lambda path: Link(path, target)
    ),
)  # fmt: skip
nodes = st.recursive(
    leaves,
    lambda below: st.tuples(
        st.integers(0, 0o777).map(lambda mode: mode | 0o500),
        st.dictionaries(names, below, max_size=4),
    ),
    max_leaves=8,
)


@st.composite
def trees(draw: st.DrawFn) -> Manifest:
    entries: list[Entry] = []
    todo = [(b"", draw(st.dictionaries(names, nodes, max_size=4)))]
    while todo:
        prefix, below = todo.pop()
        for name, node in below.items():
            if isinstance(node, tuple):
                entries.append(Directory(prefix + name, node[0]))
                todo.append((prefix + name + b"/", node[1]))
            else:
                entries.append(node(prefix + name))
    return tree(*entries)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes away, whatever the modes of what is in it.

    The modes are lifted here, because TemporaryDirectory would do it through the links.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            yield directory
        finally:
            for found in walk(directory):
                if isinstance(found, FoundDirectory):
                    os.chmod(found.source, 0o700)


@given(trees(), st.data())
@settings(max_examples=50, deadline=None)  # a disk may be slow
def test_what_is_restored_is_what_was_stored(manifest: Manifest, data: st.DataObject) -> None:
    """Also when an interrupted restore, at any file, came before."""
    files = list(manifest.files())
    done = data.draw(st.integers(0, len(files)))
    with scratch() as directory:
        with Restorer(directory, manifest) as interrupted:
            interrupted.directories()
            for entry in files[:done]:
                bring(interrupted, entry)
        assert restore(directory, manifest) == [entry.path for entry in files[done:]]
        assert tuple(entries_of(directory)) == manifest.entries
        assert restore(directory, manifest) == []
        assert restore(directory, manifest, force=True) == []
        assert tuple(entries_of(directory)) == manifest.entries


# --- the bytes are proven --------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("chunks", "how"),
    [
        ([], "5 bytes are missing"),
        ([b"hel", b"l"], "1 bytes are missing"),
        ([b"hello", b"!"], "more bytes"),
        ([b"hello!"], "more bytes"),
        ([b"jello"], "the digest differs"),
    ],
)
def test_wrong_bytes_leave_nothing_behind(
    into: Path, chunks: list[bytes], how: str, force: bool
) -> None:
    entry = a_file(b"f")
    message = f"'f' is not blob {entry.digest.hex()} of 5 bytes: .*{how}"
    with (
        Restorer(into, tree(entry), force=force) as restorer,
        pytest.raises(Corrupt, match=message),
    ):
        write(restorer, entry, *chunks)
    assert os.listdir(into) == []


def test_the_bytes_may_come_in_any_pieces(into: Path) -> None:
    def not_there_yet() -> None:
        assert not (into / "f").exists()

    entry = a_file(b"f")
    with Restorer(into, tree(entry)) as restorer:
        write(restorer, entry, b"", b"h", b"", b"ello", b"", meanwhile=not_there_yet)
    assert (into / "f").read_bytes() == HELLO


@pytest.mark.parametrize("error", [OSError(errno.ECONNRESET, "reset"), KeyboardInterrupt()])
def test_an_error_of_the_caller_passes_unchanged(into: Path, error: BaseException) -> None:
    def fail() -> None:
        raise error

    entry = a_file(b"f")
    with Restorer(into, tree(entry)) as restorer:
        with pytest.raises(type(error)) as caught:
            write(restorer, entry, b"hel", meanwhile=fail)
        assert caught.value is error
        assert os.listdir(into) == []
        bring(restorer, entry)
    assert (into / "f").read_bytes() == HELLO


def test_a_failed_replacement_leaves_the_old_file(into: Path) -> None:
    into.mkdir()
    (into / "f").write_bytes(b"mine")
    entry = a_file(b"f")
    with Restorer(into, tree(entry), force=True) as restorer, pytest.raises(Corrupt):
        write(restorer, entry, b"jello")
    assert os.listdir(into) == ["f"]
    assert (into / "f").read_bytes() == b"mine"


def test_two_files_at_a_time_in_one_directory(into: Path) -> None:
    first, second = a_file(b"a"), a_file(b"b", b"jello")
    with (
        Restorer(into, tree(first, second)) as restorer,
        restorer.file(first) as one,
        restorer.file(second) as two,
    ):
        two.write(b"jello")
        one.write(HELLO)
    assert {path.name: path.read_bytes() for path in into.iterdir()} == {
        "a": HELLO,
        "b": b"jello",
    }


# --- nothing outside, nothing through a link -------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "path",
    [b"../outside/x", b"..", b"", b".", b"/tmp/x", b"a/../../outside/x", b"a//x", b"a/", b"x\0"],
)
def test_a_path_that_leads_out(into: Path, outside: Path, path: bytes, force: bool) -> None:
    entry = a_file(path)
    with pytest.raises(InputError):
        tree(Directory(b"a", 0o755), entry)
    for entries in ([entry], [Directory(path, 0o777)], [Link(path, b"x")]):
        manifest = forged(Directory(b"a", 0o755), *entries)
        with pytest.raises(InputError):
            restore(into, manifest, force=force)
        with Restorer(into, manifest, force=force) as restorer, pytest.raises(InputError):
            write(restorer, entry, HELLO)
    assert [found.path for found in walk(into)] == [b"a"]


@pytest.mark.parametrize("force", [False, True])
def test_a_link_of_the_manifest_is_not_followed(into: Path, outside: Path, force: bool) -> None:
    link = Link(b"d", os.fsencode(outside))
    with pytest.raises(InputError):
        tree(link, a_file(b"d/x"))
    restore(into, tree(link), force=force)
    for entry in (a_file(b"d/x"), Directory(b"d/x", 0o777), Link(b"d/x", b"y")):
        with pytest.raises(CannotRestore, match="links are not followed"):
            restore(into, forged(link, entry), force=force)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("target", ["outside", "outside/d", "missing", "into/real"])
def test_a_link_where_a_directory_should_be(
    into: Path, outside: Path, force: bool, target: str
) -> None:
    (into / "real").mkdir(parents=True)
    (into / "d").symlink_to(into.parent / target)
    manifest = tree(Directory(b"d", 0o777), a_file(b"d/x"))
    with pytest.raises(CannotRestore, match="links are not followed"):
        restore(into, manifest, force=force)
    with Restorer(into, manifest, force=force) as restorer:
        for entry in manifest.files():
            with pytest.raises(CannotRestore):
                restorer.has(entry)
            with pytest.raises(CannotRestore):
                bring(restorer, entry)
        with pytest.raises(CannotRestore):
            restorer.finish()
    assert list((into / "real").iterdir()) == []


def test_a_directory_that_becomes_a_link_meanwhile(into: Path, outside: Path) -> None:
    manifest = tree(Directory(b"d", 0o777), a_file(b"d/x"), Link(b"d/y", b"x"))
    with Restorer(into, manifest) as restorer:
        restorer.directories()
        (into / "d").rmdir()
        (into / "d").symlink_to(outside)
        with pytest.raises(CannotRestore):
            bring(restorer, *manifest.files())
        with pytest.raises(CannotRestore, match="and 1 more"):
            restorer.finish()


@pytest.mark.parametrize("entry", [a_file(b"f", b"precious"), Link(b"f", b"elsewhere")])
def test_a_link_where_a_file_or_another_link_should_be(
    into: Path, outside: Path, entry: Entry
) -> None:
    into.mkdir()
    (into / "f").symlink_to(outside / "victim")
    BLOBS[digest_of(b"precious")] = b"precious"
    with pytest.raises(CannotRestore, match="something else is there"):
        restore(into, tree(entry))
    restore(into, tree(entry), force=True)
    assert list(entries_of(into)) == [entry]


def test_force_does_not_write_through_a_second_name(into: Path, outside: Path) -> None:
    into.mkdir()
    (into / "f").hardlink_to(outside / "victim")
    (into / "g").hardlink_to(outside / "victim")
    BLOBS[digest_of(b"precious")] = b"precious"
    manifest = tree(a_file(b"f"), a_file(b"g", b"precious", 0o606))
    assert restore(into, manifest, force=True) == [b"f", b"g"]
    assert tuple(entries_of(into)) == manifest.entries


# --- what is in the way ----------------------------------------------------------------------


def test_a_file_that_is_the_same_stays(into: Path) -> None:
    into.mkdir()
    (into / "f").write_bytes(HELLO)
    (into / "f").chmod(0o600)
    inode = (into / "f").stat().st_ino
    assert restore(into, tree(a_file(b"f"))) == []
    assert (mode_of(into / "f"), (into / "f").stat().st_ino) == (0o600, inode)
    assert restore(into, tree(a_file(b"f")), force=True) == [b"f"]
    assert mode_of(into / "f") == 0o644


@pytest.mark.parametrize("there", [b"", b"jello", b"hello!"])
def test_another_file_stays_without_force(into: Path, there: bytes) -> None:
    into.mkdir()
    (into / "f").write_bytes(there)
    entry = a_file(b"f")
    with Restorer(into, tree(entry)) as restorer:
        with pytest.raises(CannotRestore, match=r"'f': something else is there; .* --force"):
            restorer.has(entry)
        with pytest.raises(CannotRestore, match="something else"):
            bring(restorer, entry)
    assert (into / "f").read_bytes() == there
    assert restore(into, tree(entry), force=True) == [b"f"]
    assert (into / "f").read_bytes() == HELLO
    assert os.listdir(into) == ["f"]


def test_a_file_that_appears_meanwhile_stays_without_force(into: Path) -> None:
    def appear() -> None:
        (into / "f").write_bytes(b"mine")

    entry = a_file(b"f")
    with (
        Restorer(into, tree(entry)) as restorer,
        pytest.raises(CannotRestore, match="File exists"),
    ):
        write(restorer, entry, HELLO, meanwhile=appear)
    assert os.listdir(into) == ["f"]
    assert (into / "f").read_bytes() == b"mine"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("entry", [a_file(b"d"), Link(b"d", b"x")])
@pytest.mark.parametrize("full", [False, True])
def test_nothing_replaces_a_directory(into: Path, entry: Entry, force: bool, full: bool) -> None:
    (into / "d").mkdir(parents=True)
    if full:
        (into / "d/mine").touch()
    with pytest.raises(CannotRestore, match="'d': a directory is there"):
        restore(into, tree(entry), force=force)
    assert os.listdir(into) == ["d"]
    assert (into / "d/mine").exists() == full


def test_a_directory_that_appears_meanwhile_is_not_replaced(into: Path) -> None:
    entry = a_file(b"d")
    with (
        Restorer(into, tree(entry), force=True) as restorer,
        pytest.raises(CannotRestore, match="Is a directory"),
    ):
        write(restorer, entry, HELLO, meanwhile=(into / "d").mkdir)
    assert os.listdir(into) == ["d"]
    assert (into / "d").is_dir()


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_replaces_no_file(into: Path, force: bool) -> None:
    into.mkdir()
    (into / "d").write_bytes(b"mine")
    with pytest.raises(CannotRestore, match="a file or a link is where a directory should be"):
        restore(into, tree(Directory(b"d", 0o755), a_file(b"d/x")), force=force)
    assert (into / "d").read_bytes() == b"mine"


def test_a_fifo_is_not_waited_for(into: Path) -> None:
    into.mkdir()
    os.mkfifo(into / "f")
    with pytest.raises(CannotRestore, match="something else"):
        restore(into, tree(a_file(b"f", b"")))
    assert restore(into, tree(a_file(b"f", b"")), force=True) == [b"f"]
    assert (into / "f").is_file()


def test_links_that_are_there(into: Path) -> None:
    into.mkdir()
    (into / "same").symlink_to("x")
    (into / "file").write_bytes(b"mine")
    manifest = tree(Link(b"file", b"x"), Link(b"new", b"x"), Link(b"same", b"x"))
    with pytest.raises(CannotRestore, match="'file': something else"):
        restore(into, manifest)
    assert (into / "file").read_bytes() == b"mine"
    assert os.readlink(into / "new") == "x"
    restore(into, manifest, force=True)
    assert tuple(entries_of(into)) == manifest.entries


def test_modes_of_directories_that_were_there(into: Path) -> None:
    manifest = tree(*(Directory(name, 0o705) for name in (b"private", b"shared")))
    for name, mode in (("private", 0o700), ("shared", 0o3750)):
        (into / name).mkdir(parents=True)
        (into / name).chmod(mode)
    restore(into, manifest)
    assert (mode_of(into / "private"), mode_of(into / "shared")) == (0o700, 0o3750)
    restore(into, manifest, force=True)
    assert (mode_of(into / "private"), mode_of(into / "shared")) == (0o705, 0o3705)


def test_a_set_group_id_bit_is_inherited(into: Path) -> None:
    into.mkdir()
    into.chmod(0o2755)
    restore(into, tree(Directory(b"d", 0o750)))
    assert mode_of(into / "d") == 0o2750


def test_force_works_in_a_directory_that_was_read_only(into: Path) -> None:
    restore(into, tree(Directory(b"d", 0o555), a_file(b"d/f")))
    manifest = tree(Directory(b"d", 0o555), a_file(b"d/f", b"jello"), a_file(b"d/g"))
    assert restore(into, manifest, force=True) == [b"d/f", b"d/g"]
    assert tuple(entries_of(into)) == manifest.entries


def test_finish_does_what_it_can(into: Path) -> None:
    into.mkdir()
    (into / "a").touch()
    (into / "b").touch()
    manifest = tree(Link(b"a", b"x"), Link(b"b", b"x"), Link(b"c", b"x"), Directory(b"d", 0o711))
    with pytest.raises(CannotRestore, match=r"'a': .*\(and 1 more\)"):
        restore(into, manifest)
    assert os.readlink(into / "c") == "x"
    assert mode_of(into / "d") == 0o711


def test_a_missing_parent_is_said(into: Path) -> None:
    manifest = tree(Directory(b"d", 0o755), a_file(b"d/f"))
    missing = "'d/f': No such file or directory"
    with Restorer(into, manifest) as restorer, pytest.raises(CannotRestore, match=missing):
        bring(restorer, *manifest.files())


def test_messages_are_one_line(into: Path) -> None:
    entry = a_file(b"evil\n\x1b[2J\xff")
    restore(into, tree(entry))
    other = a_file(entry.path, b"jello")
    with Restorer(into, tree(other)) as restorer, pytest.raises(MeshError) as caught:
        restorer.has(other)
    assert str(caught.value).isprintable()


def test_a_deep_tree_needs_few_descriptors(into: Path) -> None:
    path = b"/".join([b"d"] * 200)
    directories = [Directory(path[:end], 0o755) for end in range(1, len(path) + 1, 2)]
    manifest = tree(*directories, a_file(path + b"/f"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 8, hard))
    try:
        restore(into, manifest)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (into / os.fsdecode(path) / "f").read_bytes() == HELLO


def test_no_descriptor_is_left_open(into: Path) -> None:
    before = open_descriptors()
    test_files_directories_and_links(into)
    with pytest.raises(CannotRestore):
        restore(into, forged(Link(b"away", b"/"), a_file(b"away/x")))
    assert open_descriptors() == before


# --- file systems without hard links ---------------------------------------------------------


def no_hard_links(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "no hard links here")


def test_placing_without_hard_links(tmp_path: Path) -> None:
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "temporary").write_bytes(HELLO)
        place_new(b"temporary", b"f", parent, link=no_hard_links)
        assert os.listdir(tmp_path) == ["f"]
        assert (tmp_path / "f").read_bytes() == HELLO

        (tmp_path / "temporary").write_bytes(b"other")
        with pytest.raises(FileExistsError):
            place_new(b"temporary", b"f", parent, link=no_hard_links)
        assert (tmp_path / "f").read_bytes() == HELLO

        with pytest.raises(FileNotFoundError):
            place_new(b"missing", b"g", parent, link=no_hard_links)
        assert sorted(os.listdir(tmp_path)) == ["f", "temporary"]
    finally:
        os.close(parent)


# --- how much is there ---------------------------------------------------------------------------


def test_bytes_count_once_and_only_those_of_the_tree(into: Path) -> None:
    """What is there already counts when it is read; what is something else, or broken off, not."""
    same, other, wrong = a_file(b"a"), a_file(b"b"), a_file(b"c")
    into.mkdir()
    (into / "a").write_bytes(HELLO)
    (into / "b").write_bytes(b"jello")
    counted: list[int] = []
    with Restorer(into, tree(same, other, wrong), force=True, on_bytes=counted.append) as restorer:
        (into / "a").chmod(same.mode)
        (into / "b").chmod(other.mode)
        assert restorer.has(same)
        assert sum(counted) == 5
        assert not restorer.has(other)
        assert sum(counted) == 5
        write(restorer, other, b"hel", b"lo")
        assert sum(counted) == 10
        for chunks in ([b"jel", b"lo"], [b"hel"], [b"hello", b"!"]):
            with pytest.raises(Corrupt):
                write(restorer, wrong, *chunks)
            assert sum(counted) == 10, chunks
