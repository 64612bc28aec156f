from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.store.directory import DataDirectory

NODE_ID = "0123456789abcdef" * 2

CLAIM = """
import sys
from pathlib import Path
from mesh.store.directory import DataDirectory
directory = DataDirectory.claim(Path(sys.argv[1]))
print(directory.node_id.hex(), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that holds `path`, and the node id that it read there."""
    command = [sys.executable, "-c", CLAIM, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def claimed(path: Path, pinned: str | None = None) -> bytes:
    """The node id of a directory that is claimed and released again."""
    directory = DataDirectory.claim(path, pinned)
    directory.release()
    return directory.node_id


def write_identity(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "node.json").write_text(text, encoding="utf-8")
    return path


# --- one process -----------------------------------------------------------------------------


def test_a_directory_is_made_with_its_parents_and_gets_an_identity(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    directory = DataDirectory.claim(path)
    assert directory.path == path
    assert len(directory.node_id) == 16
    assert json.loads((path / "node.json").read_text()) == {
        "node_id": directory.node_id.hex(),
        "format": 1,
    }
    assert sorted(entry.name for entry in path.iterdir()) == ["lock", "node.json"]
    directory.release()


def test_the_identity_is_made_once_and_for_one_directory(tmp_path: Path) -> None:
    first = claimed(tmp_path / "a")
    assert claimed(tmp_path / "a") == first
    assert claimed(tmp_path / "b") != first


def test_a_second_claim_is_refused_until_the_first_is_released(tmp_path: Path) -> None:
    directory = DataDirectory.claim(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigError, match="belongs to a running node"):
            DataDirectory.claim(tmp_path)
    directory.release()
    assert claimed(tmp_path) == directory.node_id


def test_an_identity_that_was_being_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "node.new").write_text("{")
    assert claimed(tmp_path) == claimed(tmp_path)


def test_a_link_in_place_of_an_identity_that_is_being_made_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "node.new").symlink_to(outside)
    DataDirectory.claim(tmp_path / "data").release()
    assert outside.read_bytes() == b"theirs"
    assert not (tmp_path / "data" / "node.json").is_symlink()


def test_unknown_keys_of_an_identity_are_ignored(tmp_path: Path) -> None:
    text = json.dumps({"node_id": NODE_ID, "format": 1, "made": "later"})
    assert claimed(write_identity(tmp_path / "d", text)).hex() == NODE_ID


# --- other processes -------------------------------------------------------------------------


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, node_id):
        assert len(node_id) == 32
        with pytest.raises(ConfigError, match="belongs to a running node"):
            DataDirectory.claim(tmp_path)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        assert claimed(tmp_path).hex() == node_id


# --- what is not a data directory ------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "deeper", "deeper/still"])
@pytest.mark.parametrize("pinned", [None, NODE_ID])
def test_a_file_is_not_a_directory(tmp_path: Path, below: str, pinned: str | None) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="is not a directory; choose another"):
        DataDirectory.claim(file / below, pinned)
    assert file.read_bytes() == b"precious"


def test_a_lock_that_cannot_be_opened_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(ConfigError, match=r"cannot use data directory .*: Is a directory"):
        DataDirectory.claim(tmp_path)


def test_an_identity_that_cannot_be_read_is_an_error_and_releases_the_lock(tmp_path: Path) -> None:
    (tmp_path / "node.json").mkdir()
    with pytest.raises(ConfigError, match=r"cannot use data directory .*: Is a directory"):
        DataDirectory.claim(tmp_path)
    (tmp_path / "node.json").rmdir()
    claimed(tmp_path)


# --- a pinned node id ------------------------------------------------------------------------


def test_the_pinned_node_is_let_in(tmp_path: Path) -> None:
    node_id = claimed(tmp_path)
    assert claimed(tmp_path, node_id.hex()) == node_id


def test_another_nodes_directory_is_refused(tmp_path: Path) -> None:
    node_id = claimed(tmp_path)
    with pytest.raises(ConfigError, match=f"is node {node_id.hex()}, not {NODE_ID}"):
        DataDirectory.claim(tmp_path, NODE_ID)
    assert claimed(tmp_path) == node_id


def test_an_empty_directory_does_not_become_the_pinned_node(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is its disk mounted"):
        DataDirectory.claim(tmp_path, NODE_ID)
    assert not (tmp_path / "node.json").exists()


def test_a_missing_directory_is_not_made_for_the_pinned_node(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        DataDirectory.claim(tmp_path / "missing", NODE_ID)
    assert not (tmp_path / "missing").exists()


# --- a damaged identity ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"node_id": 1}',
        '{"node_id": null}',
        '{"format": 1}',
        '{"node_id": "no hex at all, but 32 characters"}',
        json.dumps({"node_id": NODE_ID[1:]}),
        json.dumps({"node_id": NODE_ID, "format": "1"}),
        json.dumps({"node_id": NODE_ID}) + "}",
        "\0" * 60,
    ],
)
def test_a_damaged_identity_is_never_replaced(tmp_path: Path, text: str) -> None:
    path = write_identity(tmp_path / "d", text)
    for _ in range(2):  # the lock is free again after the first
        with pytest.raises(ConfigError, match=r"node\.json is damaged .*; restore it"):
            DataDirectory.claim(path)
    assert (path / "node.json").read_text() == text


def test_an_identity_that_is_not_text_is_damaged(tmp_path: Path) -> None:
    path = write_identity(tmp_path / "d", "")
    (path / "node.json").write_bytes(b'{"node_id": "\xff\xfe"}')
    with pytest.raises(ConfigError, match="is damaged"):
        DataDirectory.claim(path)


@pytest.mark.parametrize("identity", [{"node_id": NODE_ID, "format": 2}, {"node_id": NODE_ID[2:]}])
def test_an_identity_of_another_format_is_refused(
    tmp_path: Path, identity: dict[str, object]
) -> None:
    path = write_identity(tmp_path / "d", json.dumps(identity))
    with pytest.raises(ConfigError, match=r"is of format 2|its node_id is no 16 bytes"):
        DataDirectory.claim(path)


@pytest.mark.parametrize("node_id", [NODE_ID.upper(), " ".join(["00"] * 16)])
def test_an_identity_is_lower_case_hex_and_nothing_else(tmp_path: Path, node_id: str) -> None:
    path = write_identity(tmp_path / "d", json.dumps({"node_id": node_id}))
    with pytest.raises(ConfigError):
        DataDirectory.claim(path)
