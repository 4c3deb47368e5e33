"""Leaderboards: entries on disk, their ranked tables in Markdown and CSV, and a static site."""

from timm_lipschitz.leaderboard.entries import add
from timm_lipschitz.leaderboard.generate import asserted_entries, build, check
from timm_lipschitz.leaderboard.ranking import primary_threat_model
from timm_lipschitz.leaderboard.reported import ReportedRow, load_reported
from timm_lipschitz.leaderboard.site import build_site, render_run_page

__all__ = [
    "ReportedRow",
    "add",
    "asserted_entries",
    "build",
    "build_site",
    "check",
    "load_reported",
    "primary_threat_model",
    "render_run_page",
]
