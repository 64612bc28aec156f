"""What the pages show is what happens: each session is typed, and its output compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.sessions import ROOT, alike, played, steps

PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    if steps(page.read_text("utf-8"))
)


def test_pages_with_sessions_are_found() -> None:
    assert {"README.md", "docs/tutorial.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_session_goes_as_the_page_says(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text("utf-8")
    for program in ("curl", "openssl"):
        if f"{program} " in text and shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    for step, printed in played(text, tmp_path):
        assert alike(step.output, printed), f"{page}:{step.line}: {step.command}\n{printed}"


def test_output_is_compared_but_for_what_varies() -> None:
    assert alike("3 blobs in 0.1 s, 2.0 MiB/s", "3 blobs in 12 s, 1 KiB/s")
    assert not alike("3 blobs in 0.1 s", "4 blobs in 0.1 s")
    assert alike("a   b", "a b")
