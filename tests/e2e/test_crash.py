"""Twenty rounds of the crash campaign; hundreds more are by hand (crash_campaign.py)."""

from __future__ import annotations

from pathlib import Path

from tests.e2e import crash_campaign


def test_kill_9_at_random_moments_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    ledger = crash_campaign.run(tmp_path, 20, seed=7, segment_bytes=65536)
    # A campaign in which one of these never happened shows nothing about it.
    for what in crash_campaign.KINDS:
        assert ledger.counts[what] > 0
    for what in ("rebuilds", "killed at a start", "killed in a scrub"):
        assert ledger.counts[what] > 2
