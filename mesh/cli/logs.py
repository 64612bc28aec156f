"""How log lines look: one line each on standard error, for people or for programs.

The time is UTC, as in RFC 3339, in both forms: the logs of several nodes lie side by side, and
where each of them is does not matter then. What strangers said is made harmless: no character of
theirs moves a cursor, or begins a line that looks like one of ours.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from mesh.errors import ConfigError, printable

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("auto", "text", "json")


def start_logging(level: str, form: str = "text") -> None:
    """Log lines of `level` and above to standard error.

    `form`: text, json, or auto, which is text for a terminal and json otherwise. ConfigError for
    a level or a form that there is not.
    """
    _check("log level", level.lower(), LEVELS)
    _check("log format", form, FORMATS)
    if form == "auto":
        form = "text" if sys.stderr.isatty() else "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("mesh").setLevel(level.upper())
    logging.getLogger("mesh.http").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _check(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {what} {value[:20]!a}; there are {', '.join(known)}")


class _Text(logging.Formatter):
    """Time, level, message. A traceback follows, and each of its lines is indented."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line = f"{_time(record)} {record.levelname:<7} {printable(record.getMessage())}"
        return "\n".join((line, *(f"    {each}" for each in self._trace(record))))

    def _trace(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        return [printable(line) for line in self.formatException(record.exc_info).splitlines()]


class _Json(_Text):
    """An object a line: time, level, logger, message, and the facts that the message tells."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        for name, value in getattr(record, "facts", {}).items():
            line[name] = printable(value) if isinstance(value, str) else value
        if trace := self._trace(record):
            line["traceback"] = "\n".join(trace)
        return msgspec.json.encode(line).decode()


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
