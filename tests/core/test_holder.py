from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.holder import CLIENT, Anonymous, Client, Configured, bringer, peer_of
from mesh.core.partial import STRANGERS
from tests.oracles import quick

urls = st.builds("http://{}:7280".format, st.text(min_size=1, max_size=20))


@quick
@given(urls)
def test_a_record_names_a_configured_peer_by_its_address(url: str) -> None:
    assert peer_of(bringer(Configured(url))) == Configured(url)


@quick
@given(st.binary(max_size=16), st.binary(max_size=16))
def test_strangers_are_all_one_whatever_they_are_called(one: bytes, two: bytes) -> None:
    assert Anonymous(one) == Anonymous(two)
    assert hash(Anonymous(one)) == hash(Anonymous(two))
    assert bringer(Anonymous(one)) == bringer(CLIENT) == STRANGERS
    assert Anonymous(one) not in (CLIENT, Configured(one.hex()))


@quick
@given(st.binary(max_size=16).filter(lambda node: b"://" not in node))
def test_a_record_that_names_a_node_id_blames_nobody(node: bytes) -> None:
    assert peer_of(node) is None


def test_a_client_is_a_client() -> None:
    assert Client() == CLIENT
    assert peer_of(STRANGERS) is None
