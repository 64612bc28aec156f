"""The JSON of commands that list something: one object at the end, or an object a line."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.cli.forms import Form


class Rows:
    """What a command lists, as `form` has it; for people the caller prints lines of its own."""

    def __init__(self, form: Form, command: str, row: str, rows: str) -> None:
        """`row`: the event of one in `--json-lines`; `rows`: the key of all in `--json`."""
        self._form = form
        self._row = row
        self._rows = rows
        self._command = command
        self._kept: list[Any] = []
        self._count = 0

    def add(self, value: Any) -> None:
        """One of them: anything that msgspec makes an object of."""
        self._count += 1
        if self._form.json:
            self._kept.append(value)
        elif self._form.lines:
            print_object({"event": self._row, **msgspec.to_builtins(value)})

    def finish(self, **fields: Any) -> None:
        """The object at the end, with `fields` beside the rows."""
        if self._form.machine:
            kept = {self._rows: self._kept} if self._form.json else {}
            print_summary(self._command, count=self._count, **kept, **fields)


def print_summary(command: str, **fields: Any) -> None:
    """The object at the end of a command."""
    print_object({"event": "summary", "command": command, **fields})


def print_object(value: Any) -> None:
    """One line of JSON."""
    print(msgspec.json.encode(value).decode())
