"""What a node tells of what happens, to a program that holds it and over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import httpx
import pytest
from trio.testing import MockClock

import mesh
from mesh.actors.chronicle import Chronicle
from mesh.core.digest import digest_of
from mesh.core.holder import CLIENT, Anonymous, Configured
from mesh.server.events import lines_of
from mesh.store.base import Blob, Damage
from tests.api.loops import on_both_loops
from tests.processes import free_places


async def until(events: mesh.Events, wanted: Callable[[mesh.Event], bool]) -> mesh.Event:
    """The first event that is wanted; those before it are passed over."""
    with anyio.fail_after(30):
        async for event in events:
            if wanted(event):
                return event
    raise AssertionError("no more events")


def is_blob(digest: str) -> Callable[[mesh.Event], bool]:
    return lambda event: isinstance(event, mesh.Stored) and event.digest == digest


@on_both_loops
async def test_blobs_rounds_and_peers_are_told(tmp_path: Path) -> None:
    here, there = free_places(2)
    settings = {"interval_seconds": 0.1}
    one = mesh.Node(mesh.Config(data=f"{tmp_path}/1", listen=here, peers=[f"b={there}"]))
    other = mesh.Node(
        mesh.Config(data=f"{tmp_path}/2", listen=there, **settings)  # type: ignore[arg-type]
    )
    async with one, mesh.Client(one.url) as client:
        heard: list[mesh.Events] = [one.events(), client.events()]
        for events in heard:
            began = await anext(events)
            assert isinstance(began, mesh.Began)
            assert (began.node_id, began.blobs) == (one.node_id, 0)
        digest = await client.put(b"told of")
        for events in heard:
            stored = await until(events, is_blob(digest))
            assert stored == mesh.Stored(digest=digest, size=7, bringer="client")
        await one.sync()
        for events in heard:
            failing = await until(events, lambda event: isinstance(event, mesh.RoundEvent))
            assert isinstance(failing, mesh.RoundEvent)
            assert "cannot reach" in str(failing.error)
        async with other:
            second = await other.put(b"from the other")
            assert (await one.wait(timeout=30)).level
            for events in heard:
                stored = await until(events, is_blob(second))
                assert stored == mesh.Stored(digest=second, size=14, bringer="peer")
                await until(
                    events,
                    lambda event: (
                        isinstance(event, mesh.PeerEvent)
                        and (event.peer, event.state) == ("b", "in sync")
                    ),
                )
        # The node that stops ends the events of its clients, and is not held up by them.
        with anyio.fail_after(5):
            await heard[0].aclose()
            assert [event async for event in heard[0]] == []


@on_both_loops
async def test_a_stop_ends_the_events(tmp_path: Path) -> None:
    node = mesh.Node(mesh.Config(data=f"{tmp_path}/1", listen="127.0.0.1:0"))
    ends: list[str] = []

    async def listen(events: mesh.Events, name: str, begun: anyio.Event) -> None:
        await anext(events)
        begun.set()
        async for _ in events:
            pass
        ends.append(name)

    async def listen_from_afar(url: str, begun: anyio.Event) -> None:
        async with mesh.Client(url) as client:
            await listen(client.events(), "client", begun)

    async with anyio.create_task_group() as group:
        async with node:
            begun = [anyio.Event(), anyio.Event()]
            group.start_soon(listen, node.events(), "node", begun[0])
            group.start_soon(listen_from_afar, node.url, begun[1])
            for event in begun:
                await event.wait()
            stopped = anyio.current_time()
        assert anyio.current_time() - stopped < 8  # a stop grants 10 s to what lasts
    assert sorted(ends) == ["client", "node"]


@on_both_loops
async def test_a_wait_that_was_cancelled_does_not_look_like_a_stop(tmp_path: Path) -> None:
    config = mesh.Config(data=f"{tmp_path}/1", listen="127.0.0.1:0")
    async with mesh.Node(config) as node, mesh.Client(node.url) as client:
        for blobs in (node, client):
            events = blobs.events()
            assert isinstance(await anext(events), mesh.Began)
            with anyio.move_on_after(0.05) as scope:
                await anext(events)
            assert scope.cancelled_caught
            digest = await node.put(f"after it, {blobs}".encode())
            if blobs is node:
                assert is_blob(digest)(await anext(events))
            else:
                with pytest.raises(mesh.InputError, match="listen again"):
                    await anext(events)
            await events.aclose()


@on_both_loops
async def test_a_head_of_events_is_over_at_once(tmp_path: Path) -> None:
    settings = mesh.Config(data=f"{tmp_path}/1", listen="127.0.0.1:0")
    async with mesh.Node(settings) as node, httpx.AsyncClient() as client:
        with anyio.fail_after(30):
            for _ in range(2):  # on one connection
                answer = await client.head(f"{node.url}/v1/events")
                assert (answer.status_code, answer.content) == (200, b"")


def blob(number: int) -> Blob:
    data = b"blob %d" % number
    return Blob(digest_of(data), data)


BEGAN = mesh.Began(node_id="", name="", root=None, blobs=0)


@on_both_loops
async def test_a_slow_listener_learns_how_much_it_missed() -> None:
    chronicle = Chronicle(most=10)
    slow, quick = chronicle.listen(BEGAN), chronicle.listen(BEGAN)
    heard = [await anext(quick)]
    for number in range(25):
        chronicle.stored(CLIENT, [blob(number)])
        heard.append(await anext(quick))
    chronicle.close()
    assert not [event for event in heard if isinstance(event, mesh.Dropped)]
    late = [event async for event in slow]
    assert late[:2] == [BEGAN, mesh.Dropped(count=15)]
    assert late[2:] == heard[-10:]


@on_both_loops
async def test_damage_and_who_brought_what() -> None:
    chronicle = Chronicle()
    unheard = blob(1)
    chronicle.damaged([Damage(unheard.digest, "before anybody listened")])
    listener = chronicle.listen(BEGAN)
    chronicle.damaged([Damage(blob(2).digest, "a bit\nis wrong")])
    chronicle.stored(Configured("http://x"), [blob(2), unheard])
    chronicle.stored(Anonymous(b"x"), [blob(3)])
    chronicle.stored(CLIENT, [blob(2)])
    chronicle.peer("p", "u", "in sync", None)
    chronicle.peer("p", "u", "in sync", None)
    chronicle.forget("u")
    chronicle.peer("p", "u", "in sync", None)
    chronicle.close()
    names = [blob(number).digest.hex() for number in range(4)]
    healed = [mesh.Healed(digest=name) for name in sorted(names[1:3])]
    assert [event async for event in listener] == [
        BEGAN,
        mesh.Damaged(digest=names[2], reason="a bit\\nis wrong"),
        mesh.Stored(digest=names[2], size=6, bringer="peer"),
        mesh.Stored(digest=names[1], size=6, bringer="peer"),
        *healed,
        mesh.Stored(digest=names[3], size=6, bringer="push"),
        mesh.Stored(digest=names[2], size=6, bringer="client"),
        mesh.PeerEvent(peer="p", url="u", state="in sync"),
        mesh.PeerEvent(peer="p", url="u", state="in sync"),
    ]


class SlowToLeave:
    """A stop that never comes, and whose wait takes longer to end than a beat of the events."""

    async def wait(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(15)


def test_an_event_that_comes_with_the_beat_is_not_lost() -> None:
    async def main() -> None:
        chronicle = Chronicle()
        heard = lines_of(chronicle.listen(BEGAN), SlowToLeave(), lambda: True)  # type: ignore[arg-type]
        async with aclosing(heard) as lines, anyio.create_task_group() as group:
            assert b"began" in await anext(lines)

            async def store() -> None:
                await anyio.sleep(1)
                chronicle.stored(CLIENT, [blob(1)])

            group.start_soon(store)
            assert blob(1).digest.hex().encode() in await anext(lines)

    clock = MockClock(autojump_threshold=0)
    anyio.run(main, backend="trio", backend_options={"clock": clock})


def test_nobody_listens_and_nothing_is_kept() -> None:
    chronicle = Chronicle()
    chronicle.stored(CLIENT, [blob(1)])
    assert chronicle.told == 0
