"""mesh:// for fsspec: blobs and trees, against the directory that was put and plain slices."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh.core.digest import digest_of
from tests.processes import NodeProcess, environment, nodes

fsspec = pytest.importorskip("fsspec", reason="the extra blob-mesh[fsspec] is not installed")


class Put:
    """A node, a directory, and what names the tree of it."""

    def __init__(self, node: NodeProcess, key_file: Path, directory: Path) -> None:
        self.node = node
        self.options = {"node": node.url, "key_file": str(key_file)}
        self.directory = directory
        command = [sys.executable, "-m", "mesh", "put", "--node", node.url, "--key-file"]
        command += [str(key_file), "--tree", str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr
        with mesh.sync.Client(node.url, key_file=str(key_file)) as client:
            heads = {each.digest: client.get(each.digest, range=(0, 12)) for each in client.list()}
        (self.manifest,) = [name for name, head in heads.items() if head == b'{"entries":[']
        self.snapshots = [name for name, head in heads.items() if head.startswith(b'{"bytes":')]


@pytest.fixture(scope="module")
def put(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Put]:
    base = tmp_path_factory.mktemp("files")
    (base / "key").write_text("of-the-test\n")
    tree = base / "tree"
    (tree / "deep" / "empty").mkdir(parents=True)
    (tree / "table.csv").write_text("name,size\n" + "".join(f"n{n},{n}\n" for n in range(1000)))
    (tree / "deep" / "large").write_bytes(random.Random(1).randbytes(9_000_000))
    (tree / "deep" / "a b").write_bytes(b"a name with a blank")
    (tree / "link").symlink_to("table.csv")
    with nodes() as start:
        node = start(base / "data", "--key-file", str(base / "key"))
        yield Put(node, base / "key", tree)


@pytest.fixture
def files(put: Put) -> Any:
    from mesh.api.filesystem import MeshFileSystem

    fsspec.register_implementation("mesh", MeshFileSystem, clobber=True)
    return fsspec.filesystem("mesh", **put.options)


def test_what_only_begins_as_a_tree_is_a_file(put: Put, files: Any) -> None:
    with mesh.sync.Client(put.node.url, key_file=put.options["key_file"]) as client:
        for data in (b'{"bytes":12}', b'{"bytes":"%s"}' % bytes(5000).hex().encode(),
                     b'{"entries":["of another program"]}'):  # fmt: skip
            name = client.put(data)
            assert files.isfile(name)
            assert [each["name"] for each in files.ls(name)] == [name]
            assert files.find(name) == [name]
            assert files.cat_file(name) == data


def test_a_tree_is_a_directory(put: Put, files: Any) -> None:
    for name in [put.manifest, put.manifest[:12], *put.snapshots]:
        there = sorted(p.relative_to(put.directory) for p in put.directory.rglob("*"))
        found = files.find(f"mesh://{name}", withdirs=True, detail=True)
        below = {Path(path).relative_to(name): info for path, info in found.items() if path != name}
        assert sorted(below) == there
        for path, info in below.items():
            real = put.directory / path
            kind = "link" if real.is_symlink() else "directory" if real.is_dir() else "file"
            assert info["type"] == kind
            if kind == "file":
                assert info["size"] == real.stat().st_size
                assert files.cat_file(f"{name}/{path}") == real.read_bytes()
        assert files.isdir(f"{name}/deep")
        assert files.ls(f"{name}/deep/empty") == []
        assert files.exists(f"{name}/table.csv")
        assert not files.exists(f"{name}/no-such")


def test_a_blob_is_a_file(put: Put, files: Any) -> None:
    data = (put.directory / "deep" / "large").read_bytes()
    digest = digest_of(data).hex()
    info = files.info(f"mesh://{digest[:10]}")
    assert (info["type"], info["size"], info["digest"]) == ("file", len(data), digest)
    assert files.cat_file(digest) == data
    assert digest in files.ls("", detail=False)
    assert files.cat_ranges([digest] * 3, [0, 5, -9], [4, None, None]) == [
        data[:4], data[5:], data[-9:],
    ]  # fmt: skip
    with files.open(digest) as file:  # the manifest of a tree opens as well
        assert file.read(7) == data[:7]
    assert files.cat_file(put.manifest)[:12] == b'{"entries":['


@pytest.mark.parametrize("cache", ["readahead", "bytes", "none", "all"])
def test_reads_at_random_are_slices(put: Put, files: Any, cache: str) -> None:
    data = (put.directory / "deep" / "large").read_bytes()
    chance = random.Random(cache)
    path = f"mesh://{put.manifest}/deep/large"
    with files.open(path, cache_type=cache, block_size=300_000) as file:
        for _ in range(8):
            at, size = chance.randrange(len(data)), chance.randrange(400_000)
            file.seek(at)
            assert file.read(size) == data[at : at + size]


def test_what_is_not_there_and_what_cannot_be(put: Put, files: Any) -> None:
    absent = "0" * 64
    for path in (absent, f"{put.manifest}/no-such", f"{put.manifest}/table.csv/below", "0" * 12):
        with pytest.raises(FileNotFoundError):
            files.info(path)
        with pytest.raises(FileNotFoundError):
            files.open(path)
    with pytest.raises(FileNotFoundError, match=r"link to 'table\.csv'"):
        files.open(f"{put.manifest}/link")
    with pytest.raises(IsADirectoryError):
        files.open(f"{put.manifest}/deep")
    with pytest.raises(mesh.InputError, match="read only"):
        files.open(absent, "wb")
    with pytest.raises(mesh.InputError, match="manifest"):
        files.ls(digest_of((put.directory / "table.csv").read_bytes()).hex() + "/x")


def test_it_survives_a_pickle(put: Put, files: Any) -> None:
    again = pickle.loads(pickle.dumps(files))
    assert again.cat_file(f"{put.manifest}/deep/a b") == b"a name with a blank"


def test_the_entry_point_names_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["fsspec.specs"]["mesh"].partition(":")
    assert getattr(import_module(module), name).protocol == "mesh"


def test_pandas_reads_a_table(put: Put, files: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    url = f"mesh://{put.manifest}/table.csv"
    frame = pandas.read_csv(url, storage_options=put.options)
    assert frame["size"].sum() == sum(range(1000))
    pytest.importorskip("pyarrow", reason="pyarrow, which reads Parquet, is not installed")
    file = put.directory.parent / "table.parquet"
    frame.to_parquet(file)
    with mesh.sync.Client(put.node.url, key_file=put.options["key_file"]) as client:
        digest = client.put(file)
    assert pandas.read_parquet(f"mesh://{digest}", storage_options=put.options).equals(frame)


def test_a_program_that_used_it_ends(put: Put) -> None:
    program = (
        "import fsspec; from mesh.api.filesystem import MeshFileSystem as M; "
        f"print(len(M(**{put.options!r}).cat_file({put.manifest!r} + '/deep/a b')))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, timeout=30, env=environment(), check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("19\n", "", 0)


FORKING = """
import os, sys, fsspec
from mesh.api.filesystem import MeshFileSystem
files = MeshFileSystem(node=sys.argv[1], key_file=sys.argv[2])
print(len(files.cat_file(sys.argv[3], 0, 4)), flush=True)
child = os.fork()
print(len(files.cat_file(sys.argv[3], 0, 5)), flush=True)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_worker_has_a_client_of_its_own(put: Put) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKING, *put.options.values(), put.manifest]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment(), check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "4\n5\n5\n")
