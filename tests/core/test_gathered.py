"""What a journal's lines say, from what was gathered."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.digest import digest_of
from mesh.core.gathered import Gathered, Way

NAME = digest_of(b"a large blob")
MIB = 1024 * 1024


def texts(gathered: Gathered) -> list[str]:
    return [line.text for line in gathered.take()]


def test_small_blobs_share_a_line_with_their_count_bytes_and_rate() -> None:
    gathered = Gathered()
    gathered.moved(Way.PUT, "", 1000, 3 * MIB, 10.0, 10.5)
    gathered.moved(Way.PUT, "", 200, MIB, 10.2, 12.0)
    (line,) = gathered.take()
    assert line.text == "put by clients: 1200 blobs, 4.0 MiB in 2.0 s, 2.0 MiB/s"
    assert line.facts == {
        "event": "put", "blobs": 1200, "bytes": 4 * MIB, "seconds": 2.0,
        "bytes_per_second": 2 * MIB,
    }  # fmt: skip
    assert gathered.take() == []


def test_a_large_blob_is_named_and_several_are_counted() -> None:
    gathered = Gathered()
    gathered.moved(Way.FETCHED, "b", 1, 8 * MIB, 0.0, 4.0, NAME)
    gathered.moved(Way.FETCHED, "b", 7, 70, 0.0, 4.0)
    gathered.moved(Way.SENT, "b", 1, 8 * MIB, 0.0, 4.0, NAME)
    gathered.moved(Way.SENT, "b", 1, 8 * MIB, 2.0, 8.0, digest_of(b"another"))
    first, small, sent = gathered.take()
    assert first.text == f"fetched from b: blob {NAME.hex()}, 8.0 MiB in 4.0 s, 2.0 MiB/s"
    assert (first.facts["digest"], first.facts["peer"]) == (NAME.hex(), "b")
    assert small.text == "fetched from b: 7 blobs, 70 B in 4.0 s, 18 B/s"
    assert sent.text == "sent to b: 2 large blobs, 16.0 MiB in 8.0 s, 2.0 MiB/s"
    assert "digest" not in sent.facts


def test_each_key_has_lines_of_its_own() -> None:
    gathered = Gathered()
    for key, blobs in (("laptop", 2), ("", 1), ("ann", 4), ("laptop", 3)):
        gathered.moved(Way.PUT, "", blobs, blobs, 0.0, 0.0, key=key)
    gathered.moved(Way.PUSHED, "", 1, 9, 0.0, 0.0, NAME, "b")
    lines = gathered.take()
    assert [line.text for line in lines] == [
        "put by clients with the key laptop: 5 blobs, 5 B",
        "put by clients: 1 blob, 1 B",
        "put by clients with the key ann: 4 blobs, 4 B",
        f"pushed by other nodes with the key b: blob {NAME.hex()}, 9 B",
    ]
    assert [line.facts.get("key") for line in lines] == ["laptop", None, "ann", "b"]


def test_no_rate_is_made_of_no_time() -> None:
    gathered = Gathered()
    gathered.moved(Way.PUSHED, "", 1, 5, 3.0, 3.0)
    assert texts(gathered) == ["pushed by other nodes: 1 blob, 5 B"]


def test_announcements_and_healing() -> None:
    gathered = Gathered()
    gathered.announced("b", 3, 1)
    gathered.announced("c", 1, 0)
    gathered.announced("b", 2, 2)
    gathered.healed(1, 4)
    gathered.healed(2, 2)
    assert texts(gathered) == [
        "announced to b: 5 blobs; it wanted 3",
        "announced to c: 1 blob; it wanted 0",
        "healed: 3 blobs came back; 2 still wanted",
    ]
    assert texts(gathered) == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Way), st.sampled_from("bc"), st.integers(1, 9), st.integers(0, 99),
            st.none() | st.just(NAME), st.booleans(),
        )
    )
)  # fmt: skip
def test_nothing_is_lost_or_told_twice(
    steps: list[tuple[Way, str, int, int, bytes | None, bool]],
) -> None:
    gathered = Gathered()
    happened: Counter[tuple[str, str]] = Counter()
    told: Counter[tuple[str, str]] = Counter()

    def take() -> None:
        for line in gathered.take():
            told[str(line.facts["event"]), str(line.facts["peer"])] += line.facts["bytes"]

    for way, peer, blobs, size, large, now in steps:
        gathered.moved(way, peer, 1 if large else blobs, size, 0.0, 1.0, large and NAME)
        happened[way, peer] += size
        if now:
            take()
    take()
    assert +told == +happened
