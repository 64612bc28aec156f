"""Links between the pages lead somewhere, and the HTTP page has every route."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.sessions import ROOT

PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What may stand behind the # of a link to the page, as code hosts make it of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_http_page_has_every_route_of_clients() -> None:
    text = (ROOT / "docs" / "http.md").read_text("utf-8")
    routes: set[str] = set()
    for module in (ROOT / "mesh" / "server").glob("*.py"):
        routes.update(re.findall(r"[\"'](/v1/[^\"' ]*)[\"']", module.read_text("utf-8")))
    assert len(routes) > 10
    for route in routes:
        # /v1/peers/<path:name>/sync is found as /v1/peers/NAME/sync.
        plain = re.split(r"<[^>]*>|\{[^}]*\}", route)
        pattern = r"[\w/-]+".join(map(re.escape, plain))
        assert re.search(pattern, text), f"docs/http.md does not tell of {route}"
