"""`mesh get --tree TREE --list`: what is in a tree, without fetching any of its files."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

import msgspec

from mesh.cli.forms import Form
from mesh.cli.objects import Rows
from mesh.cli.tree import selected, tree_named
from mesh.config import Address
from mesh.core.manifest import Directory, Entry, File
from mesh.core.spelling import spelled
from mesh.errors import printable
from mesh.transport.client import node_client


async def show_contents(node: Address, name: str, include: Sequence[str], form: Form) -> None:
    """A line for each entry, as `tar tv` has it; or as JSON."""
    async with node_client(node) as client:
        tree = await tree_named(client, name)
    entries = (selected(tree.manifest, include) if include else tree.manifest).entries
    rows = Rows(form, "get", "entry", "entries")
    for entry in entries:
        if form.machine:
            rows.add(_fields(entry))
        else:
            print(_line(entry))
    rows.finish(manifest=tree.digest.hex())


def _line(entry: Entry) -> str:
    path = printable(os.fsdecode(entry.path))
    if isinstance(entry, File):
        return f"{stat.filemode(stat.S_IFREG | entry.mode)} {entry.size:>14} {path}"
    if isinstance(entry, Directory):
        return f"{stat.filemode(stat.S_IFDIR | entry.mode)} {'-':>14} {path}/"
    target = printable(os.fsdecode(entry.target))
    return f"{stat.filemode(stat.S_IFLNK | 0o777)} {'-':>14} {path} -> {target}"


def _fields(entry: Entry) -> dict[str, Any]:
    """The fields of an entry, named and spelled as in the manifest."""
    path, path_hex = spelled(entry.path)
    fields: dict[str, Any] = {"path": path, "path_hex": path_hex}
    if isinstance(entry, File):
        fields |= {"kind": "file", "mode": entry.mode, "size": entry.size}
        fields["digest"] = entry.digest.hex()
    elif isinstance(entry, Directory):
        fields |= {"kind": "directory", "mode": entry.mode}
    else:
        target, target_hex = spelled(entry.target)
        fields |= {"kind": "link", "target": target, "target_hex": target_hex}
    return {key: value for key, value in fields.items() if value is not msgspec.UNSET}
