"""Which name is a setting, and which one was meant to be.

The configuration file is ours alone: every key in it has to be a setting. The environment is not.
Kubernetes writes MESH_SERVICE_HOST, MESH_PORT and the like into every container beside a service
called `mesh`, Docker's links write MESH_NAME and MESH_ENV_*, an image may have MESH_VERSION. So a
variable that begins with MESH_ is refused only when it looks like a setting misspelt:

- the same letters, but for underscores (MESH_KEYFILE for MESH_KEY_FILE);
- the words that a setting begins with, the rest forgotten (MESH_INTERVAL, MESH_MAX_BLOB);
- so few letters added, left out, changed or swapped (MESH_PEER, MESH_INTERVAL_SECOND) that
  nobody would name another thing so: one in a name of up to five letters, two in one of up to
  nine, three in a longer one.

What Kubernetes and Docker write is recognised by its form first, and never refused.
"""

from __future__ import annotations

import difflib
import logging
import re

from mesh.errors import ConfigError
from mesh.settings import SETTINGS

log = logging.getLogger("mesh")

_PREFIX = "MESH_"

_SETTINGS = tuple(SETTINGS)

# Read by the client commands alone.
_OF_CLIENTS = ("MESH_NODE", "MESH_CONTROL_KEY_FILE")

# Behind the name of a service or of a link, which may itself have begun with `mesh`:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables and
# https://docs.docker.com/engine/network/links/#environment-variables.
_FOREIGN = re.compile(
    r"MESH_(?:\w+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_[A-Z]+(?:_(?:START|END|ADDR|PORT|PROTO))*)?"
    r"|ENV_\w+)",
    re.ASCII,
)

# Docker's links give MESH_NAME the path of a container behind that of its user: /web/mesh. No
# node can be called so.
_LINK_NAME = re.compile(r"/[^/]+/[^/]+")

# Letters of a name, underscores left out, and how many of them a misspelling gets wrong.
_ALLOWED = ((5, 1), (9, 2), (1000, 3))


def check_key(key: str, where: str) -> None:
    """ConfigError, with the nearest name there is, unless `key` is a setting."""
    if key not in _SETTINGS:
        near = difflib.get_close_matches(key, _SETTINGS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(_SETTINGS)}"
        raise ConfigError(f"unknown key {key!a} in {where}; {hint}")


def in_environment(variable: str, text: str, *, warn: bool) -> str | None:
    """The setting that `variable` is; None when it is none of ours, which may be worth a warning.

    ConfigError when it is nearly the name of one.
    """
    if not variable.startswith(_PREFIX) or variable in _OF_CLIENTS:
        return None
    key = variable.removeprefix(_PREFIX).lower()
    if key in _SETTINGS:
        return None if key == "name" and _LINK_NAME.fullmatch(text) else key
    if _FOREIGN.fullmatch(variable):
        return None
    meant = _meant(key)
    if meant is not None:
        raise ConfigError(
            f"unknown variable {variable!a} in the environment; "
            f"did you mean {_PREFIX}{meant.upper()}?"
        )
    if warn:
        log.warning("%a in the environment is not a setting of mesh and is ignored", variable)
    return None


def _meant(key: str) -> str | None:
    """The setting of which `key` is a misspelling, the nearest one first."""
    beginnings = [name for name in _SETTINGS if name.startswith(f"{key}_")]
    if beginnings:
        return beginnings[0]
    folded = key.replace("_", "")
    most = next((wrong for letters, wrong in _ALLOWED if len(folded) <= letters), 0)
    distances = {name: _distance(folded, name.replace("_", "")) for name in _SETTINGS}
    nearest = min(_SETTINGS, key=distances.__getitem__)
    return nearest if distances[nearest] <= most else None


def _distance(a: str, b: str) -> int:
    """How many letters are added, left out, changed or swapped with their neighbour (OSA)."""
    if abs(len(a) - len(b)) > _ALLOWED[-1][1]:
        return len(a) + len(b)
    before: list[int] = []
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
