"""Reads the configuration of a running node again, and says what that changes.

What takes effect: the peers, the keys that are accepted, and the keys that peers are shown. Every
other setting belongs to what was put together at the start, and is named as waiting for a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from mesh.actors.membership import Configure, Membership
from mesh.config import (
    Config,
    Key,
    Shown,
    Sources,
    exposed,
    is_loopback,
    load,
    origins,
    shown,
)
from mesh.errors import ConfigError
from mesh.offload import Offload
from mesh.settings import SETTINGS
from mesh.status import Reloaded

log = logging.getLogger("mesh")

# Seconds in which the configuration and its key files have to be read.
_READING = 10.0


class Reloader:
    """Owns the configuration that is in force. Reloads one at a time."""

    def __init__(
        self, config: Config, sources: Sources | None, membership: Membership, work: Offload
    ) -> None:
        """`config` is what the node was started with, `sources` where that came from, if known.

        `work` reads them. What it reads may hang, so it has to leave what is cancelled alone.
        """
        self._started = config
        self._config = config
        self._sources = sources
        # Where the settings came from: at the start, and at the last reload.
        self._origins: tuple[dict[str, str], dict[str, str]] | None = None
        if sources is not None:
            first = origins(sources)
            self._origins = first, first
        self._membership = membership
        self._work = work
        self._one_at_a_time = anyio.Lock()

    def accepted(self) -> tuple[Key, ...]:
        """The keys that are accepted now."""
        return self._config.accepted_keys()

    def shown(self) -> dict[str, Shown]:
        """Every setting as it is in force, and where it came from."""
        if self._origins is None:
            return shown(self._started, dict.fromkeys(SETTINGS, "the program"))
        now = shown(self._config, self._origins[1])
        started = shown(self._started, self._origins[0])
        return {key: (now if SETTINGS[key].reloads else started)[key] for key in SETTINGS}

    async def reload(self) -> Reloaded:
        """Read the sources again; ConfigError when they are no good, and then nothing changes."""
        if self._sources is None:
            raise ConfigError("this node was not started from a file that could be read again")
        async with self._one_at_a_time:
            config, found = await self._read(self._sources)
            self._check(config)
            peers = await self._membership.order(Configure(config))
            before, self._config = self._config, config
            if self._origins is not None:
                self._origins = self._origins[0], found
        changed = [peers] if peers else []
        if config.accepted_keys() != before.accepted_keys():
            changed.append(keys_text(before.accepted_keys(), config.accepted_keys()))
        answer = Reloaded(changed=changed, restart=self._waiting(config))
        log.info("reloaded: %s", answer.said)
        return answer

    async def _read(self, sources: Sources) -> tuple[Config, dict[str, str]]:
        """The configuration, and where its settings come from."""
        try:
            with anyio.fail_after(_READING):
                return await self._work(_loaded, sources)
        except TimeoutError:
            raise ConfigError(
                f"the configuration and its key files could not be read within {_READING:g} s; "
                "is one of them a FIFO, or on a file system that hangs?"
            ) from None

    def _check(self, config: Config) -> None:
        """The node goes on listening where it does, whatever the new configuration says."""
        host, _ = self._started.endpoint()
        if not is_loopback(host) and not config.accepted_keys() and not self._started.insecure:
            raise ConfigError(
                f"without a key the node, which listens on {host}, would be open to everybody who "
                "reaches it; restart it to have it listen elsewhere"
            )

    def _waiting(self, config: Config) -> list[str]:
        """The settings that differ from those with which the node was started."""
        waiting = [
            key
            for key, setting in SETTINGS.items()
            if not setting.reloads and getattr(config, key) != getattr(self._started, key)
        ]
        if config.shared_secret() != self._started.shared_secret():
            waiting.append("the key of the sketches (until then some rounds take longer)")
        return waiting


def _loaded(sources: Sources) -> tuple[Config, dict[str, str]]:
    config = load(*sources)
    warn_of_exposed(config)
    return config, origins(sources)


def keys_text(before: Sequence[Key], after: Sequence[Key]) -> str:
    """What has become of the keys, by their names, for people."""
    old, new = {key.name: key for key in before}, {key.name: key for key in after}
    words = [f"{name} is new" for name in new if name not in old]
    words += [f"{name} is gone" for name in old if name not in new]
    for name in new.keys() & old.keys():
        if new[name].secret != old[name].secret:
            words.append(f"{name} is another key")
        elif new[name].roles != old[name].roles:
            words.append(f"{name} may {new[name].said} now")
    text = f"the keys that are accepted are changed, there are {len(new)} now"
    return f"{text}: {', '.join(sorted(words))}" if words else text


def warn_of_exposed(config: Config) -> None:
    """Log which key files others can read. A warning, since secrets are often mounted so."""
    for file in config.key_files():
        if wrong := exposed(file):
            log.warning("%s", wrong)
