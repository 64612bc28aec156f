"""Sizes that more than one room goes by."""

from __future__ import annotations

# A blob from this size on travels alone and by offset, and is kept as a file of its own. A smaller
# one fits into a frame or a record that is held in memory until its hash is known. For a larger one
# a request and a file of its own cost little beside the bytes.
LARGE_BLOB = 4 * 1024 * 1024

# Digests of one question of a client. As JSON they are 275 kB, which takes a node some milliseconds
# of its loop, so whoever asks about a million blobs holds up nobody.
MOST_ASKED = 4096
