"""What a command writes, and to whom: full disks, closed streams, devices, links, signals."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.cli.streams import Outlet
from mesh.cli.target import target
from mesh.core.digest import digest_of
from mesh.errors import InputError, MeshError
from tests.processes import NodeProcess, Valve, environment, mesh, nodes, until

DATA = bytes(range(250)) * 4000
NAME = digest_of(DATA).hex()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes() as start:
        started = start(tmp_path_factory.mktemp("node") / "data")
        started.ready()
        started.request("POST", "/v1/blobs", DATA)
        yield started


def shell(node: NodeProcess, line: str, *args: object) -> subprocess.CompletedProcess[bytes]:
    """What a shell makes of `line`, in which $mesh is the command and $1… are `args`."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *map(str, args)],
        capture_output=True,
        timeout=60,
        env=environment({"MESH_NODE": node.url, "mesh": f"{sys.executable} -m mesh"}),
    )


# --- standard output -------------------------------------------------------------------------


@pytest.mark.parametrize("unbuffered", ["", "PYTHONUNBUFFERED=1"])
def test_a_blob_that_is_cut_short_is_a_failure(
    node: NodeProcess, tmp_path: Path, unbuffered: str
) -> None:
    line = f"ulimit -f 64; {unbuffered} $mesh get {NAME} > $1"
    done = shell(node, line, tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == b"mesh: cannot write the output: File too large\n"
    assert (tmp_path / "out").stat().st_size == 64 * 1024


def test_a_full_device_is_a_failure(node: NodeProcess) -> None:
    for command in (f"get {NAME}", f"get {NAME} -o /dev/full", "ls", "status"):
        done = shell(node, f"$mesh {command} >/dev/full")
        assert done.returncode == 1, command
        assert done.stderr.count(b"\n") == 1
        assert b"No space left" in done.stderr


def test_a_blob_for_nobody_is_a_failure_and_quiet(node: NodeProcess) -> None:
    done = shell(node, f"$mesh get {NAME} >&-")
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_reader_that_leaves_ends_a_listing_well_and_a_blob_badly(node: NodeProcess) -> None:
    done = shell(node, "$mesh ls | true; echo ${PIPESTATUS[0]}")
    assert (done.stdout, done.stderr) == (b"0\n", b"")
    done = shell(node, f"$mesh get {NAME} | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == (b"1\n", b"")


def test_a_message_never_lands_in_the_data(node: NodeProcess, tmp_path: Path) -> None:
    done = shell(node, f"$mesh get {'0' * 64} 2>&-")
    assert (done.returncode, done.stdout) == (1, b"")
    missing = tmp_path / "missing"
    done = shell(node, "$mesh put $1 2>&-", missing)
    assert (done.returncode, done.stdout) == (1, b"")
    # The target would be descriptor 1, or 2, where messages go.
    for closed in ("2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        done = shell(node, f"$mesh get {NAME} -o $1 {closed}", tmp_path / "out")
        assert done.returncode == 0
        assert (tmp_path / "out").read_bytes() == DATA
        (tmp_path / "out").unlink()


def test_an_outlet_waits_for_its_reader_though_the_pipe_does_not_block() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)
    came: list[bytes] = []

    def read() -> None:
        with open(reading, "rb") as file:
            came.append(file.read())

    reader = threading.Thread(target=read)
    outlet = Outlet(writing)
    reader.start()
    assert outlet.write(DATA) == len(DATA)
    os.close(writing)
    reader.join()
    assert came == [DATA]
    assert outlet.written == len(DATA)


def test_an_outlet_raises_once_and_then_takes_everything() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    outlet, quiet = Outlet(full), Outlet(full, quiet=True)
    with pytest.raises(OSError, match="No space left"):
        outlet.write(b"data")
    assert outlet.write(b"more") == 4
    assert quiet.write(b"message") == 7
    assert outlet.written == quiet.written == 0
    os.close(full)


def test_a_log_goes_on_when_its_disk_has_room_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        quiet = Outlet(file.fileno(), quiet=True)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (12, before[1]))
        try:
            for line in (b"first\n", b"cut short\n", b"lost\n"):
                assert quiet.write(line) == len(line)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        for line in (b"again\n", b"and again\n"):
            assert quiet.write(line) == len(line)
    assert log.read_bytes() == b"first\ncut sh\nagain\nand again\n"


# --- -o --------------------------------------------------------------------------------------


def written(path: Path, data: bytes = b"new") -> None:
    with target(str(path)) as write:
        write(data)


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for mode in (0o600, 0o640, 0o755):
        path.write_bytes(b"old")
        path.chmod(mode)
        written(path)
        assert path.read_bytes() == b"new"
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "there").symlink_to("real")
    (tmp_path / "dangling").symlink_to("to be made")
    written(tmp_path / "there", b"1")
    written(tmp_path / "dangling", b"2")
    assert (tmp_path / "there").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"1"
    assert (tmp_path / "to be made").read_bytes() == b"2"


def test_a_fifo_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    came: list[bytes] = []
    reader = threading.Thread(target=lambda: came.append(path.read_bytes()))
    reader.start()
    written(path, DATA)
    reader.join()
    assert came == [DATA]
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_a_device_stays_a_device(node: NodeProcess) -> None:
    done = shell(node, f"$mesh get {NAME} -o /dev/null && $mesh get {NAME} -o /dev/stdout | cat")
    assert (done.returncode, done.stdout) == (0, DATA)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for path in (f"{tmp_path}/directory", f"{tmp_path}/directory/", f"{tmp_path}/new/"):
        with pytest.raises(InputError, match="cannot write"), target(path):
            pass
    assert os.listdir(tmp_path) == ["directory"]


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with target(str(path)) as write:
            write(b"a part")
            raise MeshError("the node has gone")

    with pytest.raises(MeshError):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_hyphen_is_standard_output_and_a_path_to_one_is_a_file(
    node: NodeProcess, tmp_path: Path
) -> None:
    done = shell(node, f"cd $1; $mesh get {NAME} -o - && $mesh get {NAME} -o ./-", tmp_path)
    assert (done.returncode, done.stdout) == (0, DATA)
    assert (tmp_path / "-").read_bytes() == DATA


# --- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(
    node: NodeProcess, tmp_path: Path, number: signal.Signals
) -> None:
    with Valve(node.place, 300_000) as valve:
        command = [sys.executable, "-m", "mesh", "get", NAME, "--node", valve.place]
        process = subprocess.Popen(
            [*command, "-o", tmp_path / "out"], stderr=subprocess.PIPE, env=environment()
        )
        until(lambda: os.listdir(tmp_path))
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + number, b"")
    assert os.listdir(tmp_path) == []


def test_a_command_that_waits_for_its_reader_ends_at_a_signal(node: NodeProcess) -> None:
    command = [sys.executable, "-m", "mesh", "get", NAME, "--node", node.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def test_closed_standard_input_is_said(node: NodeProcess) -> None:
    done = shell(node, "$mesh put - <&-")
    assert done.returncode == 2
    assert done.stderr == b"mesh: standard input is closed; there is nothing to read\n"
    assert mesh("put", "-", "-", env={"MESH_NODE": node.url}).returncode == 2
