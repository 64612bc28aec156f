from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import (
    DEFAULT_PORT,
    GIB,
    Address,
    Config,
    Secret,
    flag_peers,
    is_loopback,
    join_host,
    load,
    parse_listen,
    parse_peer,
    parse_size,
    read_keys,
    redacted,
    split_peers,
)
from mesh.errors import ConfigError, printable
from tests.oracles import quick

NODE_ID = "0123456789abcdef" * 2


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mesh.toml"
    file.write_text(text, encoding="utf-8")
    return file


# --- sizes -----------------------------------------------------------------------------------

SIZES = {
    "0": 0,
    "1": 1,
    "4096": 4096,
    "7b": 7,
    "1k": 1024,
    "1K": 1024,
    "1KiB": 1024,
    "1kb": 1000,
    "500MB": 500 * 10**6,
    "500 MB": 500 * 10**6,
    "  2 m ": 2 * 1024**2,
    "1GiB": GIB,
    "1gib": GIB,
    "1 G": GIB,
    "3GB": 3 * 10**9,
    "2TiB": 2 * 1024**4,
    "2t": 2 * 1024**4,
    "2TB": 2 * 10**12,
    "1.5GiB": 3 * GIB // 2,
    "0.5k": 512,
    "0001": 1,
    # A number of bytes that a double cannot hold.
    "9007199254740993": 2**53 + 1,
}

NOT_SIZES = ["", " ", "k", "GiB", "-1", "+1", "1e3", "1,5G", "1.", ".5", "1 G B", "1GiB/s", "1P"]
NOT_SIZES += ["0x10", "1_000", "one", "1\0", "１", "1 Gi", "1 bytes", "1.5.5", "nan", "inf", "1\n2"]


@pytest.mark.parametrize("text", SIZES)
def test_a_size_is_a_number_with_a_unit(text: str) -> None:
    assert parse_size(text) == SIZES[text]


@pytest.mark.parametrize("text", NOT_SIZES)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["9" * 5000, "9" * 400 + ".5G"])
def test_a_size_beyond_all_numbers_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


@quick
@given(st.text(max_size=12))
def test_any_text_is_a_size_or_an_error_in_one_printable_line(text: str) -> None:
    try:
        size = parse_size(text)
    except ConfigError as error:
        shown = str(error)
    else:
        shown = str(size)
        assert size >= 0
    assert shown.isprintable()


# --- peers -----------------------------------------------------------------------------------

LONGEST = "x" * 253

PEERS = {
    "host": Address("http://host:7280"),
    "host:80": Address("http://host:80"),
    "host:65535": Address("http://host:65535"),
    "http://host": Address("http://host:7280"),
    "http://host:7281": Address("http://host:7281"),
    "http://host:7281/": Address("http://host:7281"),
    "https://host:443": Address("https://host:443"),
    "https://host": Address("https://host:7280"),
    "192.0.2.7": Address("http://192.0.2.7:7280"),
    "192.0.2.7:7281": Address("http://192.0.2.7:7281"),
    "node-1.example.org:7281": Address("http://node-1.example.org:7281"),
    "my_host:7281": Address("http://my_host:7281"),
    "Host.Example": Address("http://host.example:7280"),
    "[::1]": Address("http://[::1]:7280"),
    "[::1]:7281": Address("http://[::1]:7281"),
    "http://[::1]:7281": Address("http://[::1]:7281"),
    "https://[2001:DB8::0:1]:7281": Address("https://[2001:db8::1]:7281"),
    "beta=host": Address("http://host:7280", "beta"),
    "beta=host:7281": Address("http://host:7281", "beta"),
    "beta=http://host:7281": Address("http://host:7281", "beta"),
    "beta=https://[::1]:7281": Address("https://[::1]:7281", "beta"),
    "b.e_t-a9=host": Address("http://host:7280", "b.e_t-a9"),
    "x" * 64 + "=host": Address("http://host:7280", "x" * 64),
    LONGEST: Address(f"http://{LONGEST}:7280"),
}

NOT_PEERS = {
    "nothing": "",
    "a blank": " ",
    "only a port": ":7281",
    "only a scheme": "http://",
    "only a name": "beta=",
    "an empty name": "=host",
    "a path": "host/path",
    "a path behind a port": "http://host:80/blobs",
    "two slashes": "http://host//",
    "a query": "host?x",
    "a query behind a scheme": "http://host:80?x=1",
    "a fragment": "host#x",
    "a user": "user@host",
    "a user with a password": "http://user:secret@host:80",
    "an empty user": "@host",
    "a backslash": "host\\x",
    "port 0": "host:0",
    "port 00": "host:00",
    "port 65536": "host:65536",
    "port 70000": "host:70000",
    "port abc": "host:abc",
    "a negative port": "host:-1",
    "a port with a sign": "host:+80",
    "two ports": "host:80:81",
    "a port in other digits": "host:８０",
    "unicode": "hôst",
    "a unicode name": "bêta=host",
    "punycode not asked for": "例え.jp:80",
    "another scheme": "ftp://host",
    "half of a scheme": "blobstash+://host",
    "another protocol": "other+http://host",
    "a key for a node": "http://:key@host",
    "an empty key": "blobstash+http://:@host",
    "a key that no header carries": "blobstash+http://:k%20y@host",
    "a key that breaks a header": "blobstash+http://:k%0Ay@host",
    "a user of a BlobStash server": "blobstash+http://user:key@host",
    "no scheme": "://host",
    "a scheme without slashes": "http:host",
    "two schemes": "http://http://host",
    "IPv6 without brackets": "::1",
    "IPv6 with an open bracket": "[::1",
    "a bracket that only closes": "::1]:80",
    "brackets around a name": "[host]:80",
    "IPv6 that is not": "[::1::2]:80",
    "a blank in front": " host",
    "a blank in the middle": "ho st",
    "a NUL": "ho\0st",
    "a name with a blank": "be ta=host",
    "a name that begins with a dot": ".beta=host",
    "a name that is too long": "x" * 65 + "=host",
    "two names": "a=b=host",
    "a host that is too long": LONGEST + "x",
    "a host that begins with a dash": "-host",
    "a semicolon": "host;x",
    "a percent sign": "host%41",
}


@pytest.mark.parametrize("text", PEERS)
def test_a_peer_is_a_host_a_port_or_a_url_maybe_with_a_name(text: str) -> None:
    assert parse_peer(text) == PEERS[text]
    assert Config(peers=(text,)).addresses() == [PEERS[text]]


@pytest.mark.parametrize("what", NOT_PEERS)
def test_what_is_not_a_peer_is_refused_and_shown(what: str) -> None:
    text = NOT_PEERS[what]
    shown = redacted(text) if len(text) <= 80 else text[:77] + "..."
    with pytest.raises(ConfigError) as caught:
        parse_peer(text)
    assert str(caught.value).startswith(f"not a peer: '{printable(shown)}': ")


def test_a_peer_is_called_by_its_place() -> None:
    assert parse_peer("beta=https://host:443").place == "host:443"
    assert parse_peer("[::1]").place == "[::1]:7280"


@pytest.mark.parametrize(
    ("text", "url", "key"),
    [
        ("blobstash+http://host", "http://host:8050", None),
        ("blobstash+https://host:443/", "https://host:443", None),
        ("blobstash+http://[::1]", "http://[::1]:8050", None),
        ("blobstash+http://:key@host", "http://host:8050", b"key"),
        ("blobstash+http://:a%40b%2Fc=:@host:1", "http://host:1", b"a@b/c=:"),
    ],
)
def test_a_blobstash_server_is_a_peer_maybe_with_a_key(
    text: str, url: str, key: bytes | None
) -> None:
    for name in (None, "beta"):
        address = parse_peer(text if name is None else f"{name}={text}")
        assert (address.url, address.name, address.protocol) == (url, name, "blobstash")
        assert (address.key and address.key.reveal()) == key
        assert "key" not in repr(address).replace("key=", "")


@pytest.mark.parametrize(
    "text",
    [
        "blobstash+http://:secret@host:0",
        "beta=blobstash+http://:secret@host/path",
        "http://user:secret@host",
        "ftp://:secret@host",
    ],
)
def test_an_error_about_a_peer_does_not_show_its_key(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_peer(text)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        split_peers(f"a,{text},,b")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "blobstash+http://:se/cret-rest@host:0",
        "blobstash+http://:s@cret-rest@host:0",
        "blobstash+http:/:secret-rest@host",
        ":secret-rest@host",
        "user:secret-rest@host",
    ],
)
def test_no_error_about_a_peer_shows_a_key(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_peer(text)
    assert "cret-rest" not in str(caught.value)


@pytest.mark.parametrize("text", ["ho\tst", "ho\nst:80", "host:8\r0", "[::1]x:80", "[::1]]:80"])
def test_nothing_in_a_peer_is_dropped(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_peer(text)


@pytest.mark.parametrize("text", ["host:", "[::1]:", "http://host:/"])
def test_a_port_that_is_left_out_needs_no_colon(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_peer(text)


@pytest.mark.parametrize("text", ["a\nb://host", "\x1b[2J://host"])
def test_an_error_about_a_peer_is_one_printable_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_peer(text)
    assert str(caught.value).isprintable()


@quick
@given(st.text(st.sampled_from("ab:/[]@=.1?#%\\ \t\0é"), max_size=20))
def test_any_text_is_a_peer_with_a_plain_url_or_a_config_error(text: str) -> None:
    try:
        address = parse_peer(text)
    except ConfigError:
        return
    scheme, _, place = address.url.partition("://")
    assert scheme == "http"
    assert set(place) <= set(string.ascii_lowercase + string.digits + ":.[]-_%")
    assert 1 <= int(place.rpartition(":")[2]) <= 65535
    assert parse_peer(address.url).url == address.url


# --- lists of peers --------------------------------------------------------------------------


def test_a_list_of_peers_is_separated_by_commas() -> None:
    assert split_peers("a") == ("a",)
    assert split_peers("a,b:80,http://c") == ("a", "b:80", "http://c")
    assert split_peers(" a , b\t,c\n") == ("a", "b", "c")
    assert split_peers("x=[::1]:80,[::2]") == ("x=[::1]:80", "[::2]")


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_a_list_may_be_empty(text: str) -> None:
    assert split_peers(text) == ()


@pytest.mark.parametrize("text", [",", "a,", ",a", "a,,b", "a, ,b", ",,,"])
def test_a_list_has_no_empty_element(text: str) -> None:
    with pytest.raises(ConfigError, match="is empty; expected"):
        split_peers(text)


def test_a_list_may_be_long() -> None:
    peers = tuple(f"n{number}=host{number}:{number + 1}" for number in range(1000))
    config = load(None, {"MESH_PEERS": ",".join(peers)}, {})
    assert config.peers == peers
    assert len({address.url for address in config.addresses()}) == 1000


def test_a_flag_may_be_repeated() -> None:
    assert flag_peers(None) is None
    assert flag_peers([]) is None
    assert flag_peers(["a,b", "c"]) == ("a", "b", "c")
    assert flag_peers([""]) == ()
    with pytest.raises(ConfigError, match="is empty"):
        flag_peers(["a", "b,"])


def test_one_peer_that_is_malformed_spoils_the_list_by_name() -> None:
    with pytest.raises(ConfigError, match="not a peer: 'c:0'"):
        load(None, {"MESH_PEERS": "a,b,c:0,d"}, {})


# --- where to listen -------------------------------------------------------------------------

LISTENS = {
    "127.0.0.1:7280": ("127.0.0.1", 7280),
    "127.0.0.1": ("127.0.0.1", DEFAULT_PORT),
    "127.0.0.1:0": ("127.0.0.1", 0),
    ":7281": ("127.0.0.1", 7281),
    ":0": ("127.0.0.1", 0),
    "": ("127.0.0.1", DEFAULT_PORT),
    "localhost:80": ("localhost", 80),
    "0.0.0.0:7281": ("0.0.0.0", 7281),
    "[::]:7281": ("::", 7281),
    "[::1]:7281": ("::1", 7281),
    "[::1]": ("::1", DEFAULT_PORT),
    "node.example": ("node.example", DEFAULT_PORT),
}

NOT_LISTENS = ["host:70000", "host:abc", "host:-1", "host:80/path", "host/", "host?x", "host#x"]
NOT_LISTENS += ["http://127.0.0.1:80", "user@host:80", "::1", "[::1", "[x]:80", "hôst:80", "a b"]


@pytest.mark.parametrize("text", LISTENS)
def test_where_to_listen_is_a_host_and_a_port(text: str) -> None:
    assert parse_listen(text) == LISTENS[text]
    assert Config(listen=text).endpoint() == LISTENS[text]


@pytest.mark.parametrize("text", NOT_LISTENS)
def test_what_cannot_be_listened_on_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_listen(text)


@pytest.mark.parametrize("text", ["hôst:80", "a b"])
def test_an_error_about_listening_speaks_of_listening(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        parse_listen(text)


@pytest.mark.parametrize("text", ["127.0.0.\t1:80", "[::1]x:80"])
def test_nothing_in_a_listen_address_is_dropped(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_listen(text)


def test_a_host_and_a_port_make_a_place() -> None:
    assert join_host("127.0.0.1", 80) == "127.0.0.1:80"
    assert join_host("::1", 80) == "[::1]:80"


# --- keys ------------------------------------------------------------------------------------


def test_a_key_file_has_a_key_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"# for the laptop\n\none\n  two \r\n\n#three\nf#ur=%\n")
    assert [key.reveal() for key in read_keys(str(file))] == [b"one", b"two", b"f#ur=%"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n \n",
        b"# only this\n",
        b"one two\n",
        b"one\ngr\xc3\xb6\xc3\x9fe\n",
        b"o\0e\n",
        b"o\x7fe",
    ],
)
def test_a_key_file_without_a_key_that_a_header_carries_is_refused(
    tmp_path: Path, text: bytes
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(text)
    for key in ("MESH_KEY_FILE", "MESH_PEER_KEY_FILE"):
        with pytest.raises(ConfigError, match="key"):
            load(None, {key: str(file)}, {})


def test_a_key_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=f"cannot read key file {path}: "):
            load(None, {"MESH_KEY_FILE": str(path)}, {})


def test_a_key_is_not_shown() -> None:
    assert "hidden" not in f"{Secret(b'hidden')} {Secret(b'hidden')!r} {[Secret(b'hidden')]}"


def test_a_peer_has_its_own_key_or_that_of_the_node(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.write_text("shared")
    own.write_text("own\nnext")
    file = written(
        tmp_path,
        f"""
        peer_key_file = "{shared}"
        peers = ["a", {{ url = "b", key_file = "{own}" }}, "blobstash+http://:url@c"]
        """,
    )
    keys = [address.key for address in load(file, {}, {}).addresses()]
    assert [key and key.reveal() for key in keys] == [b"shared", b"own", b"url"]
    assert load(None, {"MESH_PEERS": "a"}, {}).addresses()[0].key is None


def test_a_peer_may_be_a_table(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        peers = [
            "a",
            { url = "b:1", direction = "pull" },
            { url = "n=c", direction = "push" },
            { url = "blobstash+http://d", one_way = true },
        ]
        """,
    )
    assert load(file, {}, {}).addresses() == [
        Address("http://a:7280"),
        Address("http://b:1", direction="pull"),
        Address("http://c:7280", "n", direction="push"),
        Address("http://d:8050", protocol="blobstash", one_way=True),
    ]
    flows = [(each.pulls, each.pushes) for each in load(file, {}, {}).addresses()]
    assert flows == [(True, True), (True, False), (False, True), (True, False)]


@pytest.mark.parametrize(
    "table",
    [
        "{}",
        "{ url = 1 }",
        "{ url = 'a/b' }",
        "{ url = 'a', direction = 'up' }",
        "{ url = 'a', directions = 'both' }",
        "{ url = 'a', one_way = true }",
        "{ url = 'a', one_way = 1 }",
        "{ url = 'a', key_file = '/nowhere/at/all' }",
    ],
)
def test_a_table_that_is_no_peer_is_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises(ConfigError):
        load(written(tmp_path, f"peers = [{table}]"), {}, {})


# --- beyond loopback -------------------------------------------------------------------------

LOCAL = [
    "127.0.0.1",
    "127.0.0.1:80",
    "127.1.2.3:80",
    "localhost",
    "LocalHost:80",
    "[::1]:80",
    ":80",
]
OPEN = ["0.0.0.0", "0.0.0.0:80", "[::]:80", "192.168.1.5", "128.0.0.1", "node.example", "[::2]"]
OPEN += ["localhost.example", "[::ffff:192.0.2.1]:80"]


@pytest.mark.parametrize("listen", LOCAL)
def test_listening_on_loopback_needs_no_word(listen: str) -> None:
    assert load(None, {}, {"listen": listen}).listen == listen
    assert is_loopback(parse_listen(listen)[0])


@pytest.mark.parametrize("listen", OPEN)
def test_listening_beyond_loopback_has_to_be_said(listen: str) -> None:
    with pytest.raises(ConfigError, match="or say --insecure"):
        load(None, {}, {"listen": listen})
    assert load(None, {}, {"listen": listen, "insecure": True}).insecure
    assert load(None, {"MESH_LISTEN": listen, "MESH_INSECURE": "1"}, {}).listen == listen


def test_with_a_key_a_node_may_listen_anywhere(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("key")
    assert load(None, {}, {"listen": "0.0.0.0:1", "key_file": str(file)}).listen == "0.0.0.0:1"
    # A key that is only shown to others protects nothing here.
    with pytest.raises(ConfigError, match="without a key"):
        load(None, {}, {"listen": "0.0.0.0:1", "peer_key_file": str(file)})


# --- file < environment < flags --------------------------------------------------------------


def test_without_anything_said_a_node_is_alone_and_local() -> None:
    config = load(None, {}, {})
    assert config == Config()
    assert config.endpoint() == ("127.0.0.1", 7280)
    assert config.addresses() == []


def test_the_file_gives_way_to_the_environment_and_that_to_flags(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        listen = ":1"
        data = "file"
        peers = ["a", "b:2"]
        name = "file"
        interval_seconds = 1
        max_blob_bytes = "1MiB"
        max_replica_bytes = 9000000
        shutdown_seconds = 1.5
        """,
    )
    environ = {
        "MESH_DATA": "environ",
        "MESH_NAME": "environ",
        "MESH_INTERVAL_SECONDS": "2",
        "MESH_MAX_BLOB_BYTES": "2 MiB",
        "PATH": "/bin",
    }
    flags = {"name": "flag", "interval_seconds": 3.0, "backend": None, "peers": None}
    assert load(file, environ, flags) == Config(
        listen=":1",
        data="environ",
        peers=("a", "b:2"),
        name="flag",
        interval_seconds=3.0,
        max_blob_bytes=2 * 1024**2,
        max_replica_bytes=9_000_000,
        shutdown_seconds=1.5,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("true", True), ("YES", True), ("0", False), ("False", False), ("no", False)],
)
def test_a_switch_in_the_environment(text: str, expected: bool) -> None:
    assert load(None, {"MESH_INSECURE": text}, {}).insecure is expected


def test_every_key_can_be_set_in_each_place(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("key")
    said: dict[str, Any] = {
        "listen": ":9",
        "data": "d",
        "peers": ("a", "b"),
        "key_file": str(keys),
        "peer_key_file": str(keys),
        "blobstash": False,
        "blobstash_listing": "exact",
        "name": "n",
        "backend": "trio",
        "interval_seconds": 5.0,
        "max_blob_bytes": 7,
        "max_replica_bytes": 8_000_000,
        "reserve_bytes": 9,
        "sketch_cells": 4096,
        "shutdown_seconds": 6.0,
        "insecure": True,
        "read_through": False,
        "scrub_bytes_per_second": 5000,
        "scrub_days": 2.5,
        "node_id": NODE_ID,
        "host_names": ("mesh.example", "node-a"),
    }
    assert set(said) == {field.name for field in msgspec.structs.fields(Config)}
    # JSON's text, numbers, lists and switches are also TOML's.
    toml = "\n".join(f"{key} = {json.dumps(value)}" for key, value in said.items())
    environ = {
        f"MESH_{key.upper()}": ",".join(value) if isinstance(value, tuple) else str(value)
        for key, value in said.items()
    }
    expected = Config(**said)
    assert load(written(tmp_path, toml), {}, {}) == expected
    assert load(None, environ, {}) == expected
    assert load(None, {}, said) == expected


def test_an_empty_list_in_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'peers = ["a"]')
    assert load(file, {"MESH_PEERS": ""}, {}).peers == ()
    assert load(file, {}, {"peers": ()}).peers == ()
    assert load(file, {}, {"peers": None}).peers == ("a",)


# --- what cannot work ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("intervall_seconds", "interval_seconds"),
        ("interval", "interval_seconds"),
        ("peer", "peers"),
        ("nodeid", "node_id"),
        ("max_blob_byte", "max_blob_bytes"),
        ("Listen", "listen"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_name(
    tmp_path: Path, key: str, near: str
) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{key}' in .*; did you mean '{near}'"):
        load(written(tmp_path, f"{key} = 1"), {}, {})


def test_an_unknown_key_that_is_near_to_none_is_an_error_with_all_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'zzz' in .*; known are listen, data"):
        load(written(tmp_path, "zzz = 1"), {}, {})
    with pytest.raises(ConfigError, match="unknown key 'store'"):
        load(written(tmp_path, "[store]\nname = 'x'"), {}, {})


def test_an_unknown_flag_is_an_error() -> None:
    with pytest.raises(ConfigError, match="unknown field `intervall`"):
        load(None, {}, {"intervall": 1})


def test_an_unknown_key_in_the_environment_is_an_error() -> None:
    with pytest.raises(ConfigError, match="MESH_INTERVAL_SECONDS"):
        load(None, {"MESH_INTERVALL_SECONDS": "1"}, {})


MISSPELT = {
    "MESH_PEER": "MESH_PEERS",
    "MESH_PERES": "MESH_PEERS",
    "MESH_INTERVAL_SECOND": "MESH_INTERVAL_SECONDS",
    "MESH_INTERVAL_SECS": "MESH_INTERVAL_SECONDS",
    "MESH_INTERVAL": "MESH_INTERVAL_SECONDS",
    "MESH_KEYFILE": "MESH_KEY_FILE",
    "MESH_KEY_FILES": "MESH_KEY_FILE",
    "MESH_KEY": "MESH_KEY_FILE",
    "MESH_PEER_KEYFILE": "MESH_PEER_KEY_FILE",
    "MESH_MAX_BLOB": "MESH_MAX_BLOB_BYTES",
    "MESH_MAXBLOBBYTES": "MESH_MAX_BLOB_BYTES",
    "MESH_NODEID": "MESH_NODE_ID",
    "MESH_LISTENS": "MESH_LISTEN",
    "MESH_LISTNE": "MESH_LISTEN",
    "MESH_DATTA": "MESH_DATA",
    "MESH_BACK_END": "MESH_BACKEND",
    "MESH_INSECUR": "MESH_INSECURE",
    "MESH_READTHROUGH": "MESH_READ_THROUGH",
    "MESH_SCRUB_DAY": "MESH_SCRUB_DAYS",
}


@pytest.mark.parametrize("variable", MISSPELT)
def test_a_variable_that_is_nearly_a_setting_is_an_error(variable: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {MISSPELT[variable]}?"):
        load(None, {variable: "1"}, {})


FOREIGN = [
    # Kubernetes, for services called mesh, mesh-data, mesh-peers, mesh-node and mesh-key.
    *("MESH_SERVICE_HOST", "MESH_SERVICE_PORT", "MESH_SERVICE_PORT_HTTP", "MESH_PORT"),
    *("MESH_PORT_7280_TCP", "MESH_PORT_7280_TCP_PROTO", "MESH_PORT_7280_TCP_PORT"),
    *("MESH_PORT_7280_TCP_ADDR", "MESH_PORT_53_UDP_ADDR", "MESH_SERVICE_PORT_PEERS"),
    *("MESH_DATA_SERVICE_HOST", "MESH_DATA_PORT", "MESH_DATA_PORT_80_TCP_ADDR"),
    *("MESH_PEERS_SERVICE_PORT", "MESH_PEERS_PORT", "MESH_NODE_PORT", "MESH_NODE_SERVICE_HOST"),
    *("MESH_KEY_PORT", "MESH_KEY_SERVICE_HOST", "MESH_NAME_PORT", "MESH_NAME_SERVICE_PORT_WEB"),
    # Docker's links to a container called mesh, and to one that runs mesh itself.
    *(
        "MESH_ENV_PATH",
        "MESH_ENV_MESH_PEERS",
        "MESH_ENV_MESH_PEER",
        "MESH_PORT_7280_TCP_PORT_START",
    ),
    # An image's own.
    *("MESH_VERSION", "MESH_HOME", "MESH_IMAGE_TAG", "MESH_", "MESH_GIT_COMMIT", "MESH_USER"),
]


@pytest.mark.parametrize("variable", FOREIGN)
def test_a_variable_that_is_somebody_elses_is_ignored(variable: str) -> None:
    assert load(None, {variable: "tcp://10.0.0.1:7280"}, {}) == Config()


def test_the_name_that_a_link_of_docker_gives_is_not_the_nodes() -> None:
    assert load(None, {"MESH_NAME": "/web/mesh"}, {}) == Config()
    with pytest.raises(ConfigError, match="name"):
        load(None, {"MESH_NAME": "/web"}, {})


@given(st.sampled_from(sorted(msgspec.structs.asdict(Config()))), st.data())
def test_a_letter_too_few_or_too_many_is_never_ignored(key: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(key) - 1))
    letter = data.draw(st.sampled_from(string.ascii_lowercase))
    for typo in (key[:at] + key[at + 1 :], key[:at] + letter + key[at:]):
        with pytest.raises(ConfigError):
            load(None, {f"MESH_{typo.upper()}": "no value at all,"}, {})


BAD_FILES = {
    "not TOML": ("listen = ", "is not TOML"),
    "a key twice": ("name = 'a'\nname = 'b'", "is not TOML"),
    "a number for a name": ("name = 1", "bad configuration: Expected `str"),
    "text for a number": ("interval_seconds = '5'", "bad configuration: Expected `float`"),
    "a switch for a number": ("max_blob_bytes = true", "bad configuration: Expected `int . null`"),
    "text for a switch": ("insecure = 'yes'", "bad configuration: Expected `bool`"),
    "text for a list": ("peers = 'a,b'", "bad configuration: Expected `array`"),
    "numbers in a list": ("peers = [1]", "bad configuration: Expected `str"),
    "a bad size": ("max_blob_bytes = '1 XB'", "not a size"),
    "a bad peer": ("peers = ['a', 'b:0']", "not a peer: 'b:0'"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, what: str) -> None:
    text, message = BAD_FILES[what]
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, text), {}, {})


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing: No such file"):
        load(tmp_path / "missing", {}, {})
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        load(tmp_path, {}, {})
    (tmp_path / "latin").write_bytes(b"name = 'gr\xf6\xdfe'")
    with pytest.raises(ConfigError, match="latin is not TOML"):
        load(tmp_path / "latin", {}, {})


BAD_ENVIRONMENTS = {
    "MESH_INTERVAL_SECONDS": ["", "soon", "nan", "inf", "-1", "0", "0.04", "604801", "1s"],
    "MESH_SHUTDOWN_SECONDS": ["", "-0.1", "3601", "nan", "inf"],
    "MESH_MAX_BLOB_BYTES": ["", "0", "-5", "65GiB", "many"],
    "MESH_MAX_REPLICA_BYTES": ["", "1", "4095KiB"],
    "MESH_INSECURE": ["", "maybe", "on", "2"],
    "MESH_BLOBSTASH": ["", "maybe"],
    "MESH_BLOBSTASH_LISTING": ["", "overlong", "Exact"],
    "MESH_BACKEND": ["", "curio", "Trio"],
    "MESH_NODE_ID": ["", NODE_ID[1:], NODE_ID + "0", NODE_ID.upper(), NODE_ID[:-1] + "g"],
    "MESH_LISTEN": ["", "host:abc", "0.0.0.0:80", "127.0.0.1:70000"],
    "MESH_PEERS": [",", "a,,b", "a/b"],
    "MESH_DATA": [""],
    "MESH_KEY_FILE": [""],
    "MESH_PEER_KEY_FILE": [""],
    "MESH_NAME": ["", "a b", "x" * 65, "größe", ".a", "-a", "_a", "a\n", "a/b", "a=b"],
}


@pytest.mark.parametrize(
    ("key", "text"), [(key, text) for key, texts in BAD_ENVIRONMENTS.items() for text in texts]
)
def test_an_environment_that_is_wrong_is_refused(key: str, text: str) -> None:
    with pytest.raises(ConfigError):
        load(None, {key: text}, {})


@pytest.mark.parametrize("seconds", [0.05, 1, 30.0, 86_400 * 7])
def test_the_range_of_intervals(seconds: float) -> None:
    assert load(None, {}, {"interval_seconds": seconds}).interval_seconds == seconds


@pytest.mark.parametrize("name", ["a", "9", "alpha", "Alpha-2.example_b", "x" * 64])
def test_a_node_has_a_plain_name(name: str) -> None:
    assert load(None, {"MESH_NAME": name}, {}).name == name


def test_limits_that_contradict_one_another_are_refused() -> None:
    assert load(None, {}, {"max_blob_bytes": 5_000_000, "max_replica_bytes": 5_000_000})
    with pytest.raises(ConfigError, match="expected at least 4194304"):
        load(None, {}, {"max_blob_bytes": 1, "max_replica_bytes": 4_194_303})
    with pytest.raises(ConfigError, match="a limit of 5000001 bytes a blob; expected 1 to"):
        load(None, {}, {"max_blob_bytes": 5_000_001, "max_replica_bytes": 5_000_000})


def test_a_reserve_is_no_less_than_nothing() -> None:
    assert load(None, {}, {"reserve_bytes": 0}).reserve_bytes == 0
    with pytest.raises(ConfigError, match="reserve"):
        load(None, {}, {"reserve_bytes": -1})


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Config().name = "other"  # type: ignore[misc]


def test_a_configuration_reads_no_file_after_it_was_made(tmp_path: Path) -> None:
    keys, own = tmp_path / "keys", tmp_path / "own"
    keys.write_text("one\ntwo\n")
    own.write_text("mine\n")
    config = load(
        written(tmp_path, f'peers = ["a", {{ url = "b", key_file = "{own}" }}]'),
        {"MESH_KEY_FILE": str(keys), "MESH_PEER_KEY_FILE": str(keys)},
        {},
    )
    keys.unlink()
    own.write_text("another")
    assert [key.secret.reveal() for key in config.accepted_keys()] == [b"one", b"two"]
    assert [each.key and each.key.reveal() for each in config.addresses()] == [b"one", b"mine"]
    assert config.shared_secret() == b"one"


def test_two_peers_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two peers are called 'n'"):
        load(None, {}, {"peers": ("n=127.0.0.1:1", "n=127.0.0.1:2")})
    assert load(None, {}, {"peers": ("n=127.0.0.1:1", "n=127.0.0.1:1", "m=127.0.0.1:1")})


# --- the sketch ------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [0, 2048, 2**18, 2**22])
def test_a_sketch_has_some_thousand_cells_or_none(cells: int) -> None:
    assert load(None, {"MESH_SKETCH_CELLS": str(cells)}, {}).sketch_cells == cells


@pytest.mark.parametrize("cells", [1, 2047, 2**22 + 1])
def test_a_sketch_of_too_few_or_too_many_cells_is_an_error(cells: int) -> None:
    with pytest.raises(ConfigError, match=f"a sketch of {cells} cells; expected 2048 to 4194304"):
        load(None, {"MESH_SKETCH_CELLS": str(cells)}, {})


@pytest.mark.parametrize("text", ["", "many", "-1", "1.5", "²", "9" * 19])
def test_cells_that_are_no_number_are_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a number of cells"):
        load(None, {"MESH_SKETCH_CELLS": text}, {})


def test_the_secret_of_the_mesh_is_what_peers_are_shown(tmp_path: Path) -> None:
    shown, wanted = tmp_path / "shown", tmp_path / "wanted"
    shown.write_text("one\ntwo\n")
    wanted.write_text("three\n")
    assert Config().shared_secret() == b""
    assert Config(key_file=str(wanted)).shared_secret() == b"three"
    assert Config(peer_key_file=str(shown)).shared_secret() == b"one"
    both = Config(peer_key_file=str(shown), key_file=str(wanted))
    assert both.shared_secret() == b"one"
