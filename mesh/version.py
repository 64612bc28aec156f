"""The version that is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The version that is installed; "unknown" in a checkout that is not."""
    try:
        return version("blob-mesh")
    except PackageNotFoundError:
        return "unknown"
