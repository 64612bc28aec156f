"""Peers are added, removed, paused and moved while a node runs, and nothing of them stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from mesh.actors.membership import Add, Configure, Move, Pause, Remove
from mesh.config import (
    Change,
    Changes,
    Config,
    Listed,
    PeerEntry,
    decode_changes,
    encode_changes,
    listed,
)
from mesh.core.digest import digest_of
from mesh.core.holder import Caller
from mesh.errors import ConfigError, InputError, MeshError, StoreError
from mesh.wire.messages import Hello, Offer, encode
from tests.actors.world import (
    HOUR,
    HangingStream,
    Member,
    Through,
    a_world,
    blob,
    blobs,
    filled,
    large,
    until,
    url_of,
)
from tests.oracles import quick

virtual = pytest.mark.trio


def peers_of(member: Member) -> dict[str, str]:
    """The peers that are listed, by their URL, and their states."""
    return {each.url: each.state for each in member.node.membership.listing()}


def add(name: str, **options: Any) -> Add:
    return Add(PeerEntry(f"{name}:7280", **options))


# --- adding and removing -----------------------------------------------------------------------


@virtual
async def test_a_peer_that_is_added_is_levelled_with_at_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(*blobs(0, 100)))
        a = await world.start("a")
        await a.put(blob(1000))
        assert await a.node.membership.order(add("b")) == "b:7280 is added"
        await world.level(within=10.0)
        assert a.peer("b").in_sync
        digests = await a.put(blob(1001))
        await until(lambda: world.named("b").has(*digests), within=1.0)


@virtual
async def test_a_peer_that_is_removed_is_left_alone(autojump_clock: MockClock) -> None:
    class Noting(Through):
        asked = 0

        async def before(self, path: str) -> None:
            Noting.asked += 1

    async with a_world() as world:
        b = await world.start("b")
        a = await world.start("a", ["b"], wires={"b": Noting})
        await until(lambda: a.peer("b").in_sync, within=10.0)
        said = await a.node.membership.order(Remove("b"))
        assert said.startswith("b is removed; it stays removed although the configuration lists it")
        asked = Noting.asked
        await a.put(blob(1))
        await trio.sleep(HOUR)
        assert Noting.asked == asked
        assert a.node.status().peers == []
        assert peers_of(a) == {url_of("b"): "removed"}
        assert b.count == 0
        with pytest.raises(InputError, match="no peer is called 'b'"):
            a.node.find_peer("b")
        # A node that was removed and goes on asking is a stranger.
        await b.node.membership.order(add("a"))
        await until(lambda: len(a.node.status().inbound) == 1, within=10.0)
        # Over a restart as well, until it is added again.
        await a.restart()
        assert a.node.status().peers == []
        assert await a.node.membership.order(add("b")) == (
            "b:7280 is added again, as it is configured"
        )
        await until(lambda: a.peer("b").in_sync, within=10.0)
        assert a.changes == Changes()


@virtual
async def test_a_transfer_ends_with_its_peer_and_another_brings_the_blobs(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        data = [*blobs(0, 50), large(1), large(2)]
        await world.start("b", store=await filled(*data))
        await world.start("c", store=await filled(*data))
        a = await world.start("a", ["b"], wires={"b": HangingStream}, interval=1000.0)
        await until(lambda: any(map(a.node.keeper.coming, map(digest_of, data))), within=10.0)
        await a.node.membership.order(Remove("b"))
        assert not any(map(a.node.keeper.coming, map(digest_of, data))), "its claims stayed"
        began = trio.current_time()
        await a.node.membership.order(add("c"))
        await until(lambda: a.count == len(data), within=6.0)
        assert trio.current_time() - began < 6.0, "a claim was waited for"


@virtual
async def test_nothing_of_a_removed_peer_is_left_running_or_claimed(
    autojump_clock: MockClock,
) -> None:
    def running(nursery: trio.Nursery) -> list[str]:
        tasks = list(nursery.child_tasks)
        below = [
            name for task in tasks for inner in task.child_nurseries for name in running(inner)
        ]
        return [task.name for task in tasks] + below

    async with a_world() as world:
        a = await world.start("a", ["b", "c"])
        holder = a.node.find_peer("b:7280").holder
        wanted = digest_of(b"wanted")
        assert a.node.keeper.claim(holder, [wanted]) == [wanted]
        await a.node.membership.order(Remove("b:7280"))
        assert not a.node.keeper.coming(wanted)
        names = running(world.nursery)
        assert not [name for name in names if "b:7280" in name]
        assert len([name for name in names if "c:7280" in name]) == 3


@virtual
async def test_a_peer_is_no_duplicate_of_what_it_was_at_its_old_url(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = world.add("b")
        b.urls = [url_of("b"), url_of("elsewhere")]
        await b.start()
        a = await world.start("a", ["b"])
        await until(lambda: a.peer("b").in_sync, within=10.0)
        await a.node.membership.order(Move("b", "elsewhere:7280"))
        await until(lambda: a.peer("elsewhere").in_sync, within=10.0)
        assert a.peer("elsewhere").state == "idle"


@virtual
async def test_whoever_waits_for_a_peer_is_told_that_it_was_removed(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        await world.start("b", store=await filled(blob(1)))
        await world.start("c")
        a = await world.start("a", ["b", "c"], wires={"b": HangingStream})
        answers = []

        async def wait() -> None:
            answers.append(await a.node.wait_and_tell(None, whole=False))

        async def sync() -> None:
            answers.append(await a.node.find_peer("b:7280").sync())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(sync)
            await trio.sleep(5.0)
            assert not answers
            await a.node.membership.order(Remove("b:7280"))
        waited = next(each for each in answers if hasattr(each, "said"))
        assert waited.level
        assert "b was not waited for: it was removed meanwhile" in waited.said
        assert next(each for each in answers if not hasattr(each, "said")).error


@virtual
async def test_a_wait_follows_a_peer_to_its_new_address(autojump_clock: MockClock) -> None:
    """It is a peer as before: a wait that left it out would promise what is not so."""
    async with a_world() as world:
        b = world.add("b")
        b.urls = [url_of("elsewhere")]
        await b.start()
        a = await world.start("a", ["b"], store=await filled(blob(1)))
        answers = []

        async def wait(timeout: float) -> None:
            answers.append(await a.node.wait_and_tell(timeout, whole=False))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, 100.0)
            await trio.sleep(5.0)
            assert not answers
            await a.node.membership.order(Move("b:7280", "nowhere:7280"))
            await trio.sleep(5.0)
            assert not answers
            await a.node.membership.order(Move("nowhere:7280", "elsewhere:7280"))
        (waited,) = answers
        assert waited.said == "level with 1 of 1 peers"
        assert b.count == 1


@virtual
async def test_the_key_file_of_an_added_peer_is_found_from_any_directory(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.key").write_text("key")
    monkeypatch.chdir(tmp_path)
    async with a_world() as world:
        a = await world.start("a")
        await a.node.membership.order(add("b", key_file="b.key"))
        monkeypatch.chdir("/")
        (address,) = (each.address for each in listed(Config(), a.changes))
        assert address.key is not None


@virtual
async def test_a_peer_may_not_be_added_twice(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b")
        a = await world.start("a", ["b"])
        await until(lambda: a.peer("b").in_sync, within=10.0)
        for entry, why in (
            (PeerEntry("b:7280"), "is a peer already: b"),
            (PeerEntry("blobstash+http://:secret@d"), "a key in a URL"),
            (PeerEntry("x/y"), "not a peer"),
            (PeerEntry("d", key_file="/nowhere"), "cannot read key file /nowhere"),
            (PeerEntry("d", direction="up"), "direction is one of"),
        ):
            with pytest.raises(MeshError, match=why):
                await a.node.membership.order(Add(entry))
        await a.node.membership.order(Add(PeerEntry("name=d", direction="pull")))
        with pytest.raises(InputError, match="another peer is called 'name'"):
            await a.node.membership.order(Add(PeerEntry("name=e")))
        shown = a.node.membership.listing()
        assert [(each.name, each.origin, each.direction) for each in shown] == [
            ("b", "configuration", "both"),
            ("name", "added", "pull"),
        ]


@virtual
async def test_what_cannot_be_kept_changes_nothing(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b")
        a = world.add("a", ["b"])

        async def full(changes: Changes) -> None:
            raise StoreError("the disk is full")

        a.keep = full  # type: ignore[method-assign]
        await a.start()
        for order in (Remove("b:7280"), add("c"), Pause("b:7280", paused=True)):
            with pytest.raises(StoreError, match="the disk is full"):
                await a.node.membership.order(order)
        await until(lambda: a.peer("b").in_sync, within=10.0)
        assert list(peers_of(a)) == [url_of("b")]


@virtual
async def test_an_order_is_on_disk_before_it_has_any_effect(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        a = world.add("a", ["b"])
        go_on, seen = trio.Event(), []

        async def slow(changes: Changes) -> None:
            await go_on.wait()
            seen.append(list(peers_of(a)))
            a.changes = changes

        a.keep = slow  # type: ignore[method-assign]
        await a.start()
        with trio.move_on_after(1.0):  # whoever gave the order goes away
            await a.node.membership.order(Remove("b:7280"))
        go_on.set()
        await until(lambda: peers_of(a) == {url_of("b"): "removed"}, within=1.0)
        assert seen == [[url_of("b")]]
        assert a.changes.of(url_of("b")).removed


# --- pausing -----------------------------------------------------------------------------------


@virtual
async def test_a_paused_peer_gets_and_brings_nothing_until_it_is_resumed(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b")
        a = await world.start("a", ["b"])
        await until(lambda: a.peer("b").in_sync, within=10.0)
        assert await a.node.membership.order(Pause("b", paused=True)) == (
            "b is paused, also over restarts"
        )
        sent = a.traffic("b").requests
        ours = await a.put(blob(1))
        theirs = await b.put(blob(2))
        for _ in range(2):
            await trio.sleep(HOUR)
            assert not b.has(*ours)
            assert not a.has(*theirs)
            status = a.peer("b")
            assert (status.state, status.standing, status.in_sync) == ("paused", "paused", False)
            assert (status.missing_here, status.missing_there) == (None, None)
            stats = await a.node.find_peer("b:7280").sync()
            assert stats.state == "paused"
            assert "mesh peers resume" in (stats.error or "")
            assert a.node.find_peer("b:7280").candidate is None, "a read would ask it"
            assert a.traffic("b").requests == sent
            await a.restart()
            sent = a.traffic("b").requests
        assert await a.node.membership.order(Pause("b:7280", paused=False)) == "b:7280 is resumed"
        await world.level(within=10.0)
        assert a.changes == Changes()
        said = await a.node.membership.order(Pause("b", paused=False))
        assert said == "b was not paused before"


@virtual
async def test_a_pause_ends_the_round_that_runs(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        data = blobs(0, 50)
        await world.start("b", store=await filled(*data))
        a = await world.start("a", ["b"], wires={"b": HangingStream})
        stats = []

        async def sync() -> None:
            stats.append(await a.node.find_peer("b:7280").sync())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync)
            await until(lambda: a.peer("b").state == "syncing", within=10.0)
            await a.node.membership.order(Pause("b", paused=True))
            assert not any(map(a.node.keeper.coming, map(digest_of, data)))
        assert "is paused here" in (stats[0].error or "")
        assert a.peer("b").state == "paused"
        # Paused and resumed again and again, it ends as a peer like any other.
        for _ in range(5):
            await a.node.membership.order(Pause("b", paused=False))
            await trio.sleep(3.0)
            await a.node.membership.order(Pause("b", paused=True))
        await trio.sleep(HOUR)
        assert a.peer("b").state == "paused"


@virtual
async def test_a_wait_says_which_peers_are_paused(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.start("b")
        await world.start("c")
        a = await world.start("a", ["b", "c"])
        await a.put(blob(1))
        await until(lambda: all(each.in_sync for each in a.node.status().peers), within=10.0)
        await a.node.membership.order(Pause("c:7280", paused=True))
        await a.put(blob(2))
        answer = await a.node.wait_and_tell(10.0, whole=False)
        assert answer.level
        assert "level with 1 of 1 peers" in answer.said
        assert "c was not waited for: it is paused here" in answer.said
        (report,) = [each for each in answer.peers if each.peer == "c"]
        assert not report.level
        # The whole mesh is not level while one of its nodes is not looked at.
        answer = await a.node.wait_and_tell(10.0, whole=True)
        assert not answer.level
        assert "c is paused here" in answer.beyond
        # Neither does it look so to a node behind this one.
        d = await world.start("d", ["a"])
        answer = await d.node.wait_and_tell(10.0, whole=True)
        assert not answer.level
        assert "it is paused here, and `mesh peers resume" in answer.said
        await a.node.membership.order(Pause("b:7280", paused=True))
        answer = await a.node.wait_and_tell(10.0, whole=False)
        assert not answer.level
        assert "nothing is known to be anywhere else" in answer.said


# --- moving ------------------------------------------------------------------------------------


@virtual
async def test_a_peer_that_has_moved_is_shown_to_call_and_found_by_its_new_url(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        b = await world.start("b")
        a = await world.start("a", ["b"])
        await until(lambda: a.peer("b").in_sync, within=10.0)
        await b.stop()
        b.urls = [url_of("elsewhere")]
        await b.start()
        await until(lambda: a.peer("b").failures > 0, within=60.0)
        assert a.peer("b").calls_from is None
        hello = Hello(node=b.node_id, instance=b"2" * 8, root=None, count=0)
        stranger = msgspec.structs.replace(hello, node=b"s" * 16)
        for speaker, source in ((hello, "10.0.0.7"), (stranger, "10.0.0.8")):
            body = encode(Offer(hello=speaker, digests=b""))
            await a.node.service.call("offer", body, Caller(source, "key of b"))
        assert a.peer("b").calls_from == "10.0.0.7"
        assert a.peer("b").key == "key of b"
        await trio.sleep(HOUR)
        assert a.peer("b").url == url_of("b"), "nobody is followed who only says who it is"
        said = await a.node.membership.order(Move("b", "elsewhere:7280"))
        assert said == "b is at http://elsewhere:7280 now"
        await until(lambda: a.peer("elsewhere").in_sync, within=10.0)
        assert a.peer("elsewhere").name == "b"
        assert a.peer("elsewhere").calls_from is None
        (shown,) = a.node.membership.listing()
        assert (shown.moved_from, shown.origin) == (url_of("b"), "configuration")
        await a.restart()
        assert [each.url for each in a.node.status().peers] == [url_of("elsewhere")]
        assert a.node.find_peer("b").address.url == url_of("elsewhere"), "the name is kept"
        for text, why in (
            ("x=c:1", "a URL alone"),
            ("blobstash+http://c", "speaks mesh"),
            ("http://c/p", "not a peer"),
        ):
            with pytest.raises(MeshError, match=why):
                await a.node.membership.order(Move("b", text))
        with pytest.raises(InputError, match="had before `set-url`"):
            await a.node.membership.order(add("b"))
        await a.node.membership.order(Move("b", "b:7280"))
        assert a.changes == Changes(), "where it was at first needs no note"


@virtual
async def test_another_configuration_changes_what_it_says_and_nothing_else(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with a_world() as world:
        for name in ("b", "c", "d", "e"):
            await world.start(name)
        a = await world.start("a", ["b", "c", "d"])
        await until(lambda: all(each.in_sync for each in a.node.status().peers), within=10.0)
        await a.node.membership.order(Remove("d"))
        await a.node.membership.order(add("e"))
        rounds = a.peer("b").rounds
        key = tmp_path / "key"
        key.write_text("key")
        after = Config(
            peers=("b:7280", "d:7280", "f=f:7280", PeerEntry("c:7280", direction="pull")),
            interval_seconds=30.0,
        )
        said = await a.node.membership.order(Configure(after))
        assert said == "f is added; c:7280 is changed"
        assert peers_of(a).keys() == {url_of(n) for n in "bcdef"}
        assert peers_of(a)[url_of("d")] == "removed", "an edited file does not bring it back"
        assert a.peer("b").rounds == rounds, "what did not change goes on"
        assert a.node.find_peer("c:7280").direction == "pull"
        said = await a.node.membership.order(Configure(Config(peer_key_file=str(key))))
        assert "b:7280 is removed" in said
        said = await a.node.membership.order(Configure(Config(peers=("d=d:7280",))))
        assert "d was removed by an order and stays so, until `mesh peers add http://d" in said
        await a.node.membership.order(Configure(Config(peer_key_file=str(key))))
        assert "e:7280 is changed" in said, "it is shown another key"
        await until(lambda: a.peer("e").in_sync, within=10.0)


@virtual
async def test_a_name_that_several_peers_gave_themselves_names_none(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        for name in ("b", "c", "d"):
            member = await world.start(name)
            member.node.identity = msgspec.structs.replace(member.node.identity, name="same")
        a = world.add("a", ["b", "c"])
        a.config = Config(peers=("b:7280", "c:7280", "given=d:7280"), interval_seconds=30.0)
        await a.start()
        await until(lambda: all(each.in_sync for each in a.node.status().peers), within=10.0)
        for order in (Remove("same"), Pause("same", paused=True), Move("same", "e:1")):
            with pytest.raises(
                InputError, match="several peers call themselves 'same': say b:7280"
            ):
                await a.node.membership.order(order)
        await a.node.membership.order(Remove("given"))
        assert len(a.node.status().peers) == 2


# --- the values --------------------------------------------------------------------------------

HOSTS = ["a", "b", "c", "d"]
entries = st.builds(
    PeerEntry,
    st.sampled_from([*HOSTS, *(f"n{h}={h}" for h in HOSTS)]),
    direction=st.sampled_from(["both", "pull", "push"]),
)
urls = st.sampled_from([f"http://{host}:7280" for host in HOSTS])
change = st.builds(
    Change, urls, removed=st.booleans(), paused=st.booleans(), url=st.none() | urls
).flatmap(lambda c: st.sampled_from([c, msgspec.structs.replace(c, added=PeerEntry(c.of))]))
changes_of_all = st.lists(change, max_size=4, unique_by=lambda each: each.of).map(
    lambda each: Changes(tuple(each))
)
configs = st.lists(entries, max_size=4, unique_by=lambda e: e.url.rpartition("=")[2]).map(
    lambda each: Config(peers=tuple(each))
)


def slowly(config: Config, changes: Changes) -> list[tuple[str, str, bool]]:
    """Anchor, URL and pause of each peer in force, by the rules, one peer at a time."""
    by_anchor = {each.of: each for each in changes.peers}
    anchors = [address.url for address in config.addresses()]
    anchors += [c.of for c in changes.peers if c.added is not None and c.of not in anchors]
    found: list[tuple[str, str, bool]] = []
    for anchor in anchors:
        rule = by_anchor.get(anchor)
        if rule is not None and rule.removed:
            continue
        url = rule.url if rule is not None and rule.url is not None else anchor
        if url not in [other for _, other, _ in found]:
            found.append((anchor, url, rule is not None and rule.paused))
    return found


@quick
@given(configs, changes_of_all)
def test_the_peers_in_force_follow_from_the_configuration_and_the_orders(
    config: Config, changes: Changes
) -> None:
    peers = listed(config, changes)
    assert [(p.anchor, p.address.url, p.paused) for p in peers] == slowly(config, changes)
    names = [p.address.name for p in peers if p.address.name]
    assert len(names) == len(set(names))
    assert decode_changes(encode_changes(changes), "peers.json") == changes
    configured = {address.url for address in config.addresses()}
    assert all(p.configured == (p.anchor in configured) for p in peers)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"peers": [{}]}',
        b'{"peers": [{"of": "http://b:7280", "gone": true}]}',
        b'{"peers": [{"of": "http://b:7280"}, {"of": "http://b:7280"}]}',
        b'{"peers": [{"of": "b"}]}',
        b'{"peers": [{"of": "http://b:7280", "url": "http://x/y"}]}',
        b'{"peers": [], "format": 2}',
    ],
)
def test_a_file_that_is_damaged_is_an_error_that_says_what_to_do(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"/d/peers\.json is (damaged .*; restore|of format)"):
        decode_changes(data, "/d/peers.json")


@quick
@given(changes_of_all, change)
def test_a_change_replaces_the_one_before_and_nothing_else(changes: Changes, new: Change) -> None:
    after = changes.with_change(new)
    assert after.of(new.of) == new
    others: Callable[[Changes], list[Change]] = lambda all_of: [  # noqa: E731
        each for each in all_of.peers if each.of != new.of and each != Change(each.of)
    ]
    assert others(after) == others(changes)
    assert Change(new.of) not in after.peers
    assert isinstance(listed(Config(), after), list)


def test_a_peer_that_was_added_with_a_key_file_that_has_gone_is_named(tmp_path: Path) -> None:
    entry = PeerEntry("b", key_file=str(tmp_path / "gone"))
    changes = Changes((Change("http://b:7280", added=entry),))
    with pytest.raises(ConfigError, match=r"gone: No such file .*http://b:7280 in peers\.json"):
        listed(Config(), changes)
    kept = Changes((Change("http://b:7280", added=entry, removed=True),))
    assert listed(Config(), kept) == []
    assert isinstance(listed(Config(peers=("c",)), Changes())[0], Listed)
