"""Sizes that more than one room goes by."""

from __future__ import annotations

# A blob from this size on travels alone and by offset, and is kept as a file of its own: below
# it, a frame or a record is small enough to be held in memory until its hash is known; above it,
# a request and a file each cost little beside the bytes.
LARGE_BLOB = 4 * 1024 * 1024
