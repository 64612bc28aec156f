"""Plots of what `mesh bench` measured: a file of lines that its `--json` printed makes a plot.

matplotlib draws them; it is an extra (`pip install 'blob-mesh[plot]'`), since no node needs it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mesh.decoding import json_of
from mesh.errors import InputError, Undecodable

T = TypeVar("T")


class ReconcilePoint(msgspec.Struct, frozen=True):
    """A line of `mesh bench reconcile --json`, as far as it is drawn."""

    method: str
    blobs: int
    differ: int
    bytes_up: float
    bytes_down: float


class ReplicatePoint(msgspec.Struct, frozen=True):
    """A line of `mesh bench replicate --json`, as far as it is drawn."""

    backend: str
    blobs: int
    bytes: int
    blobs_per_second: float
    bytes_per_second: float


class TreeRivalPoint(msgspec.Struct, frozen=True):
    """Another tool in a line of `mesh bench tree --json`; seconds of all destinations together."""

    name: str
    seconds: float


class TreePassPoint(msgspec.Struct, frozen=True):
    """A pass in a line of `mesh bench tree --json`."""

    seconds: float


class TreePoint(msgspec.Struct, frozen=True):
    """A line of `mesh bench tree --json`, as far as it is drawn."""

    name: str
    backend: str
    nodes: int
    first: TreePassPoint
    rivals: list[TreeRivalPoint]


class FanoutPoint(msgspec.Struct, frozen=True):
    """A line of `mesh bench fanout --json`, as far as it is drawn."""

    backend: str
    workers: int
    size: int
    seconds: float
    alone_seconds: float


def read(file: Path, kind: type[T]) -> list[T]:
    """The results in a file, one JSON object a line; InputError when it holds anything else."""
    try:
        lines = file.read_bytes().splitlines()
        return [json_of(kind).read(line) for line in lines if line.strip()]
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error
    except Undecodable as error:
        raise InputError(f"{file} is not what `mesh bench --json` prints: {error}") from error


def draw_reconcile(points: Sequence[ReconcilePoint], out: Path) -> None:
    """Bytes of a round, both ways, against the number of differences; a line for each method."""
    figure, axes = _figure()
    for method in dict.fromkeys(point.method for point in points):
        line = sorted((p.differ, p.bytes_up + p.bytes_down) for p in points if p.method == method)
        axes.plot([d for d, _ in line], [b for _, b in line], marker="o", label=method)
    floor = sorted({point.differ for point in points if point.differ})
    axes.plot(floor, [16 * d for d in floor], linestyle=":", label="the digests themselves")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("log")
    axes.set_xlabel("differences, half on each side")
    axes.set_ylabel("payload bytes, both ways")
    axes.set_title(f"Finding what differs, {max(p.blobs for p in points):,} blobs on each side")
    _save(figure, axes, out)


def draw_replicate(points: Sequence[ReplicatePoint], out: Path) -> None:
    """Blobs and megabytes a second against the size of a blob; a line for each backend."""
    figure, axes = _figure()
    right = axes.twinx()
    for backend in dict.fromkeys(point.backend for point in points):
        chosen = sorted((p for p in points if p.backend == backend), key=_size)
        sizes = [_size(p) for p in chosen]
        axes.plot(
            sizes, [p.blobs_per_second for p in chosen], marker="o", label=f"{backend}, blobs/s"
        )
        right.plot(
            sizes,
            [p.bytes_per_second / 1e6 for p in chosen],
            marker="s",
            linestyle="--",
            label=f"{backend}, MB/s",
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("bytes a blob")
    axes.set_ylabel("blobs a second (solid)")
    right.set_ylabel("MB a second (dashed)")
    axes.set_title("Filling an empty node over loopback, durable")
    _save(figure, axes, out)


def draw_tree(points: Sequence[TreePoint], out: Path) -> None:
    """A group of bars for each line: the mesh, and the other tools of the same run."""
    figure, axes = _figure()
    rows = [
        {f"mesh, {point.backend}": point.first.seconds}
        | {rival.name: rival.seconds for rival in point.rivals}
        for point in points
    ]
    tools = list(dict.fromkeys(tool for row in rows for tool in row))
    for number, tool in enumerate(tools):
        places = [at + 0.8 * number / len(tools) for at, row in enumerate(rows) if tool in row]
        seconds = [row[tool] for row in rows if tool in row]
        axes.bar(places, seconds, width=0.8 / len(tools), align="edge", label=tool)
    names = [f"{p.name}\n{p.nodes} node{'s' if p.nodes > 1 else ''}" for p in points]
    axes.set_xticks([at + 0.4 for at in range(len(names))], names)
    axes.set_ylabel("seconds until everything is everywhere")
    axes.set_title("A directory put into one node, durable")
    _save(figure, axes, out)


def draw_fanout(points: Sequence[FanoutPoint], out: Path) -> None:
    """How many times longer N workers take than one alone; a line for each backend."""
    figure, axes = _figure()
    for backend in dict.fromkeys(point.backend for point in points):
        line = sorted(
            (p.workers, p.seconds / p.alone_seconds) for p in points if p.backend == backend
        )
        axes.plot([n for n, _ in line], [t for _, t in line], marker="o", label=backend)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("workers that start together")
    axes.set_ylabel("time, in times of one worker alone")
    axes.set_title(f"One blob of {max(p.size for p in points) / 2**20:,.0f} MiB to many workers")
    _save(figure, axes, out)


def _size(point: ReplicatePoint) -> float:
    return point.bytes / point.blobs


def _figure() -> tuple[Any, Any]:
    try:
        # The object interface: no window, no global state.
        figures = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise InputError("plots need matplotlib; pip install 'blob-mesh[plot]' brings it") from None
    figure = figures.Figure(figsize=(7, 4.5), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, axes: Any, out: Path) -> None:
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    # Without a date, the same numbers make the same file.
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None)
