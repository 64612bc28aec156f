"""Every example of docs/api.md runs; those with async on both loops."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.processes import NodeProcess, nodes

TEXT = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    base = tmp_path_factory.mktemp("docs")
    (base / "key").write_text("of-the-docs\n")
    with nodes() as start:
        yield start(base / "data", "--key-file", str(base / "key"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with the files that the examples name."""
    (tmp_path / "mesh.key").write_text("of-the-docs\n")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8" + bytes(5000))
    monkeypatch.chdir(tmp_path)


def run(example: str, served: NodeProcess, loop: str) -> dict[str, Any]:
    """Run an example as the body of a function, asynchronous if it needs that."""
    code = example.replace("http://127.0.0.1:7280", served.url)
    code = code.replace("127.0.0.1:7281", "127.0.0.1:0")
    code = code.replace('b"news"', f'b"news of {loop}"')  # only what is new is told of
    names: dict[str, Any] = {"__name__": "example"}
    if is_async(example):
        exec(f"async def main():\n{textwrap.indent(code, '    ')}\n", names)
        anyio.run(names["main"], backend=loop)
    else:
        exec(code, names)
    return names


def is_async(example: str) -> bool:
    """Whether it awaits outside of functions of its own."""
    return re.search(r"^async (with|for)|^await ", example, re.MULTILINE) is not None


CASES = [
    pytest.param(example, loop, id=f"{number}-{loop}")
    for number, example in enumerate(EXAMPLES)
    for loop in (["asyncio", "trio"] if is_async(example) else ["asyncio"])
]


@pytest.mark.parametrize(("example", "loop"), CASES)
@pytest.mark.usefixtures("place")
def test_an_example_runs(example: str, loop: str, served: NodeProcess) -> None:
    if "fsspec" in example:
        fsspec = pytest.importorskip("fsspec", reason="blob-mesh[fsspec] is not installed")
        from mesh.api.filesystem import MeshFileSystem

        fsspec.register_implementation("mesh", MeshFileSystem, clobber=True)
    if "starlette" in example:
        pytest.importorskip("starlette", reason="starlette is not installed")
    run(example, served, loop)


def test_the_tables_name_what_there_is() -> None:
    import mesh
    from mesh.events import KINDS

    table = TEXT.partition("| event |")[2].partition("\n\n")[0]
    events = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert {getattr(mesh, name).__struct_config__.tag for name in events} == KINDS
    for name in events:
        (fields,) = re.findall(rf"^\| `{name}` \|[^|]*\|(.*)\|$", table, re.MULTILINE)
        assert all(f"`{field}`" in fields for field in getattr(mesh, name).__struct_fields__)
    errors = re.findall(r"^\| `(\w+)` \|", TEXT.partition("## Errors")[2], re.MULTILINE)
    assert all(issubclass(getattr(mesh, name), mesh.MeshError) for name in errors)
    tree = ast.parse((Path(mesh.__file__)).read_text(encoding="utf-8"))
    (public,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    assert all(getattr(mesh, name) is not None for name in public)
    assert {name for name in public if name.endswith(("Error", "Found"))} <= {
        "MeshError",
        *errors,
        "PeerError",
    }
