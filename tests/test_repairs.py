"""The repairs of other people's packages hold on the versions that they were proven on."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mesh.server import repairs as server
from mesh.transport import repairs as transport

ROOM = {"mesh/server/repairs": server.PROVEN, "mesh/transport/repairs": transport.PROVEN}
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.parametrize("room", ROOM)
def test_what_is_installed_was_proven(room: str) -> None:
    proven = ROOM[room]
    installed = {name: version(name) for name in proven[0]}
    assert installed in proven, (
        f"{installed} is none of the sets in {room}/__init__.py: read what changed in what the "
        "files there replace, run tests/server and tests/transport on it, and add the set"
    )


@pytest.mark.parametrize("room", ROOM)
def test_the_package_admits_what_was_proven_and_no_next_minor_version(room: str) -> None:
    values = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    bounds = {
        each.name: each.specifier for each in map(Requirement, values["project"]["dependencies"])
    }
    for name in ROOM[room][0]:
        versions = [one[name] for one in ROOM[room]]
        assert all(bounds[name].contains(one) for one in versions), name
        major, minor, *_ = map(int, versions[-1].split("."))
        following = f"{major}.{minor + 1}.0" if major == 0 else f"{major + 1}.0.0"
        assert not bounds[name].contains(following), name
