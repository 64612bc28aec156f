"""In which form a command tells how far it is, and how it ended."""

from __future__ import annotations

from typing import NamedTuple

from mesh.errors import InputError


class Form(NamedTuple):
    """What was asked for on the command line.

    `quiet`: errors only. `progress`: a line every ten seconds where there is no bar. `json`: one
    object at the end. `lines`: the same object, and an object a line before it.
    """

    quiet: bool = False
    progress: bool = False
    json: bool = False
    lines: bool = False

    @property
    def machine(self) -> bool:
        """Whether standard output is for a program."""
        return self.json or self.lines

    def judged(self) -> Form:
        """Itself; InputError when two of the options contradict each other."""
        if self.json and self.lines:
            raise InputError("--json and --json-lines: which one is meant?")
        if self.quiet and self.progress:
            raise InputError("--quiet and --progress contradict each other")
        if self.quiet and self.lines:
            raise InputError("--quiet and --json-lines contradict each other; use --json")
        return self

    def unseen(self) -> Form:
        """The same without showing how far it is."""
        return self._replace(quiet=True, progress=False)
