"""Arguments as they are typed: empty ones, repeated ones, odd ones."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mesh.cli.bench import bench_app
from mesh.cli.examples import EXAMPLES
from mesh.cli.main import app
from mesh.core.digest import digest_of
from tests.processes import NodeProcess, mesh, nodes

DIGEST = "0" * 64

EMPTY = [
    ["put", ""],
    ["put", "a", ""],
    ["put", "--tree", ""],
    ["put", "--exclude", "", "a"],
    ["put", "--exclude-from=", "a"],
    ["put", "a", "--node", ""],
    ["put", "a", "--key-file="],
    ["get", ""],
    ["get", DIGEST, "-o", ""],
    ["get", DIGEST, "--output="],
    ["get", "--tree", DIGEST, ""],
    ["ls", "--prefix", ""],
    ["sync", ""],
    ["sync", "a", ""],
    ["wait", "--timeout", ""],
    ["peers", "add", ""],
    ["peers", "add", "b", "--peer-key-file", ""],
    ["peers", "remove", ""],
    ["peers", "set-url", "b", ""],
    ["peers", "pause", "b", "--control-key-file="],
    ["reload", "--data", ""],
    ["config", "check", ""],
    ["config", "show", "--data", ""],
    ["run", "--data", ""],
    ["run", "--config", ""],
    ["run", "--peers", ""],
    ["run", "--listen="],
    ["run", "--name", ""],
    ["run", "--key-file", ""],
    ["store", "check", "--data", ""],
    ["store", "rebuild", "--data="],
    ["store", "stats", "--data", ""],
    ["blobstash", "sync", ""],
    ["blobstash", "sync", "host", "--data", ""],
]

TWICE = [
    ["put", "a", "--node", "b", "--node", "c"],
    ["get", DIGEST, "-o", "b", "--output", "c"],
    ["get", DIGEST, "-o", "b", "-o", "b"],
    ["ls", "--prefix", "a", "--prefix=b"],
    ["wait", "--timeout", "1", "--timeout", "2"],
    ["run", "--data", "a", "--data", "b"],
    ["peers", "remove", "b", "--data", "c", "--data", "d"],
    ["config", "show", "--data", "a", "--data", "b"],
    ["run", "--listen", ":0", "--listen", ":0"],
    ["store", "check", "--data", "a", "--data", "b"],
]


def refused(*args: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a command says in its one line when it was asked wrongly; it made nothing."""
    before = sorted(cwd.rglob("*"))
    done = mesh(*args, env=env, seconds=30)
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert (done.stdout, said.count("\n"), said[:6]) == (b"", 1, "mesh: ")
    assert sorted(cwd.rglob("*")) == before
    return said


@pytest.mark.parametrize("args", EMPTY, ids=" ".join)
def test_an_empty_argument_is_never_something_else(tmp_path: Path, args: list[str]) -> None:
    assert "is empty; is a variable unset?" in refused(*args, cwd=tmp_path)


def test_an_empty_argument_is_called_what_the_help_calls_it(tmp_path: Path) -> None:
    for args, name in ((["ls", ""], "PREFIX"), (["has", ""], "DIGEST"), (["put", ""], "PATHS")):
        assert f"{name} is empty" in refused(*args, cwd=tmp_path)


@pytest.mark.parametrize("args", TWICE, ids=" ".join)
def test_an_option_that_is_given_twice_is_refused(tmp_path: Path, args: list[str]) -> None:
    assert "is given more than once" in refused(*args, cwd=tmp_path)


@pytest.mark.parametrize("variable", ["MESH_NODE", "MESH_KEY_FILE"])
def test_an_empty_variable_is_an_error(tmp_path: Path, variable: str) -> None:
    for args in (["ls"], ["put", "a"], ["get", DIGEST], ["status"], ["sync"], ["wait"]):
        assert f"{variable} in the env" in refused(*args, cwd=tmp_path, env={variable: ""})
    for name in ("MESH_DATA", "MESH_LISTEN", "MESH_KEY_FILE", "MESH_NAME"):
        refused("run", cwd=tmp_path, env={name: ""})


# --- names -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with nodes() as start:
        started = start(tmp_path_factory.mktemp("node") / "data")
        started.ready()
        yield started


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["wait", "--timeout", "nan"], 2, "timeout is nan; expected seconds"),
        (["status", "--node", "http://xn--a:1"], 1, "xn--a:1 is no name of a host"),
        (["get", "ab" * 32, "--node", "http://xn--:1"], 1, "xn--:1 is no name of a host"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(args: list[str], code: int, said: str) -> None:
    done = mesh(*args)
    assert done.returncode == code
    assert done.stderr.decode().startswith(f"mesh: {said}")
    assert done.stderr.count(b"\n") == 1


def test_a_file_called_hyphen_is_a_file(node: NodeProcess, tmp_path: Path) -> None:
    (tmp_path / "-").write_bytes(b"precious")
    (tmp_path / "plain").write_bytes(b"as typed")
    path = f"{tmp_path}/./-"
    done = mesh("put", path, f"{tmp_path}//plain", "--node", node.url, stdin=b"another")
    assert done.returncode == 0
    assert done.stdout.decode().splitlines() == [
        f"{digest_of(b'precious').hex()}  {path}",
        f"{digest_of(b'as typed').hex()}  {tmp_path}//plain",
    ]


def test_a_name_that_is_not_utf_8_is_a_name(node: NodeProcess, tmp_path: Path) -> None:
    odd = b"caf\xe9"
    for args in (
        ["sync", odd],
        ["put", bytes(tmp_path) + b"/" + odd],
        ["get", DIGEST, "-o", bytes(tmp_path) + b"/no/" + odd],
        ["get", odd],
        ["ls", "--prefix", odd],
        ["put", "--tree", odd],
        ["put", "--exclude-from", odd, tmp_path],
        ["status", "--key-file", odd],
    ):
        done = mesh(*args, "--node", node.url)  # type: ignore[arg-type]
        assert done.returncode in (1, 2)
        assert done.stderr.startswith(b"mesh: ")
        assert done.stderr.count(b"\n") == 1, done.stderr.decode()
        done.stderr.decode("utf-8")


# --- examples --------------------------------------------------------------------------------


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command below `group`, with its path behind "mesh"."""
    for name, each in group.commands.items():
        if name == "bench" and not path:
            yield from commands(typer.main.get_command(bench_app), ("bench",))
        elif hasattr(each, "commands"):
            yield from commands(each, (*path, name))
        else:
            yield " ".join((*path, name)), each


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_examples_that_parse(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("MESH_NODE", "MESH_KEY_FILE"):
        monkeypatch.delenv(variable, raising=False)
    lines = EXAMPLES.get(name)
    assert lines, f"mesh {name} has no example in its help: add one to mesh/cli/examples.py"
    for line in lines:
        assert len(line) <= 78, "it is shown behind two spaces, in 80 columns"
        # What the shell makes of it is the shell's: the part that begins with `mesh NAME`.
        parts = re.split(r"[|<>]|&&", line)
        mine = [words for part in parts if (words := shlex.split(part, comments=True))]
        words = ["mesh", *name.split()]
        (arguments,) = [each[len(words) :] for each in mine if each[: len(words)] == words]
        COMMANDS[name].make_context(" ".join(words), arguments)


def test_an_example_is_of_a_command_and_is_shown() -> None:
    assert set(EXAMPLES) <= set(COMMANDS)
    for words in (["put"], ["store", "check"], ["peers", "add"], ["bench", "put"]):
        shown = mesh(*words, "--help").stdout.decode()
        for line in EXAMPLES[" ".join(words)]:
            assert f"\n  {line}\n" in shown


@pytest.mark.parametrize("group", ["", "peers", "config", "store", "blobstash", "bench"])
def test_a_list_of_commands_cuts_no_sentence_short(group: str) -> None:
    listed = mesh(*group.split(), "--help").stdout.decode().partition("\nCommands:\n")[2]
    assert listed
    assert [line for line in listed.splitlines() if not line.endswith(".")] == []
    assert "..." not in listed
