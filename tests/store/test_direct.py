"""Appending past the cache gives the file that appending through it gives."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.store.direct import open_direct
from mesh.store.files import DiskFiles

MIB = 2**20

# Around what is written at a time, and around a block of the disk.
LENGTHS = st.one_of(
    st.integers(0, 9000),
    st.sampled_from([4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB + 512]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.just("sync"), st.lists(LENGTHS, max_size=3)), max_size=6))
def test_the_file_is_what_was_appended(steps: list[str | list[int]]) -> None:
    with tempfile.TemporaryDirectory() as base:
        files = DiskFiles(Path(base))
        file = files.append_to("f", create=True, bulk=True)
        wanted = b""
        for number, step in enumerate(steps):
            if isinstance(step, str):
                file.sync()
                assert (Path(base) / "f").read_bytes() == wanted
                continue
            pieces = [bytes([number + 1]) * length for length in step]
            file.append(pieces)
            wanted += b"".join(pieces)
            assert file.size == len(wanted)
        file.sync()
        assert (Path(base) / "f").read_bytes() == wanted
        file.close()
        assert files.open("f").read_at(0, len(wanted) + 1) == wanted


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        open_direct(tmp_path / "f")
    with pytest.raises(FileExistsError):
        DiskFiles(tmp_path).append_to("f", create=True, bulk=True)
    assert (tmp_path / "f").read_bytes() == b"mine"


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskFiles(tmp_path).append_to("nowhere/f", create=True, bulk=True)
