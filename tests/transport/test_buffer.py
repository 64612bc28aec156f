"""A connection whose buffer copies no bodies gives the events that h11's own gives."""

from __future__ import annotations

from random import Random

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.transport.repairs.buffer import without_copies
from tests.oracles import quick


def request(random: Random) -> bytes:
    """One request: no body, one with a length, or one in chunks with lines in its bytes."""
    head = b"POST /%d HTTP/1.1\r\nHost: a\r\n" % random.randrange(100)
    body = b"".join(
        random.choice(
            [b"\r\n", b"0\r\n\r\n", b"\r", b"\n", random.randbytes(random.randrange(300))]
        )
        for _ in range(random.randrange(9))
    )
    kind = random.randrange(3)
    if kind == 0:
        return head + b"\r\n"
    if kind == 1:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b""
    while body:
        part, body = body[:70], body[70:]
        chunks += b"%x;note\r\n%s\r\n" % (len(part), part)
    trailer = random.choice([b"", b"After: all\r\n"])
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


def events(sent: list[bytes], *, repaired: bool) -> list[object]:
    """What a server sees of requests that come in these pieces, the bytes of a body joined."""
    connection = h11.Connection(h11.SERVER)
    if repaired:
        without_copies(connection)
    seen: list[object] = []
    for piece in sent:
        connection.receive_data(piece)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                return [*seen, str(error)[:20]]  # it shows bytes in two ways
            if event is h11.NEED_DATA:
                break
            if isinstance(event, h11.Data) and seen and isinstance(seen[-1], bytes):
                seen[-1] += bytes(event.data)
            elif isinstance(event, h11.Data):
                seen.append(bytes(event.data))
            else:
                seen.append(event)
                if isinstance(event, h11.EndOfMessage):
                    connection.send(h11.Response(status_code=204, headers=[]))
                    connection.send(h11.EndOfMessage())
                    connection.start_next_cycle()
    return [*seen, connection.trailing_data]


@quick
@given(st.integers(0, 2**32))
def test_events_are_those_of_h11_however_the_bytes_come(seed: int) -> None:
    random = Random(seed)
    text = b"".join(request(random) for _ in range(4))
    if random.randrange(4) == 0:
        at = random.randrange(len(text))
        text = text[:at] + random.choice([b"\0", b"zz\r\n", b"\r\n"]) + text[at:]
    sent, most = [], random.choice([1, 20, 200, 2000])
    while text:
        size = random.randint(1, most)
        sent.append(text[:size])
        text = text[size:]
    assert events(sent, repaired=True) == events(sent, repaired=False)


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_a_body_is_not_copied_where_a_read_is_all_of_it(framing: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    without_copies(connection)
    connection.receive_data(b"PUT / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    if framing.startswith(b"T"):
        connection.receive_data(b"100000\r\n")
        assert connection.next_event() is h11.NEED_DATA
    piece = bytes(50_000)
    connection.receive_data(piece)
    event = connection.next_event()
    assert isinstance(event, h11.Data)
    assert event.data is piece
