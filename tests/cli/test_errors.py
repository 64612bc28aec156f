"""`mesh errors`: what it prints, and against a real node."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.columns import WIDTH, columns
from mesh.cli.errors import lines
from mesh.status import ErrorRow, Errors
from tests.oracles import quick
from tests.processes import free_places, mesh, nodes, until

texts = st.text(st.sampled_from("abz0-. \x1b\n東é\u0301🐟"), min_size=1, max_size=300)
ages = st.none() | st.floats(0, 10**10)
rows = st.builds(
    ErrorRow,
    digest=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    peer=st.none() | texts,
    missing=st.sampled_from(["here", "there", None]),
    reason=texts,
    tries=st.none() | st.integers(0, 2**63),
    first_at=st.none(),
    first_seconds_ago=ages,
    last_seconds_ago=ages,
)


@quick
@given(st.lists(rows, max_size=4), st.integers(0, 2**63))
def test_no_line_is_longer_than_80_columns_and_every_row_is_there(
    some: list[ErrorRow], more: int
) -> None:
    shown = lines(Errors(errors=some, more=more))
    assert all(columns(line) <= WIDTH for line in shown)
    assert all(line.isprintable() for line in shown)
    text = "".join(shown).replace(" ", "")
    for row in some:
        assert row.digest is None or row.digest in shown
        assert row.tries is None or f"{row.tries}tr" in text
    assert not more or f"and{more}more" in text
    assert shown != []
    assert ("nothing keeps failing" in shown) is (not some and not more)


def test_errors_of_a_real_node(tmp_path: Path) -> None:
    (nobody,) = free_places(1)
    with nodes() as start:
        two = start(tmp_path / "two", "--name", "two")
        _, _, answer = two.request("POST", "/v1/blobs", b"x" * (5 * 1024 * 1024))
        name = json.loads(answer)["digest"]
        config = tmp_path / "mesh.toml"
        config.write_text("max_replica_bytes = 4194304\n")
        peers = f"two={two.place},ghost={nobody}"
        one = start(tmp_path / "one", "--peers", peers, "--config", str(config))
        until(lambda: one.status()["peers"][0]["missing_here"] == 1)
        until(lambda: one.status()["peers"][1]["failures"])
        done = mesh("errors", "--node", one.url)
        assert (done.returncode, done.stderr) == (0, b"")
        ghost, *reason, blob, how, _ = done.stdout.decode().splitlines()
        assert (ghost, blob) == ("peer ghost", name)
        assert "refused" in " ".join(reason)
        assert how.startswith("  from two, 1 try, first ")
        done = mesh("errors", "--json", "--node", one.url)
        told = json.loads(done.stdout)
        assert [row["digest"] for row in told["errors"]] == [None, name]
        done = mesh("errors", "--retry", "--node", one.url)
        assert (done.returncode, done.stderr) == (1, b"")
        assert b"from two, 2 tries" in done.stdout
        done = mesh("errors", "--retry", "--node", two.url)
        assert (done.returncode, done.stdout) == (0, b"nothing keeps failing\n")
