"""The README's main job, on a small directory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.processes import environment

EXAMPLE = Path(__file__).parents[2] / "examples" / "three_nodes.py"


def three_nodes(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def test_the_main_job_ends_well_and_says_what_it_did(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_bytes(bytes([number]) * 1000)
    (tmp_path / "again.txt").write_bytes(bytes(1000))
    (tmp_path / "large").write_bytes(bytes(5 * 2**20))
    done = three_nodes(tmp_path, "--backend", "trio")
    assert done.returncode == 0, done.stderr
    assert "32 files, 31 blobs" in done.stdout
    assert "every blob was fetched from every node and has the right hash" in done.stdout
    roots = re.findall(r"^n\d root ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    assert len(roots) == 3
    assert len(set(roots)) == 1


def test_a_directory_without_files_is_said(tmp_path: Path) -> None:
    done = three_nodes(tmp_path)
    assert (done.returncode, done.stderr) == (1, "three_nodes: there is no file to put\n")
