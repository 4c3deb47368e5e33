"""Leaderboards: entries on disk, their ranked tables in Markdown and CSV, and a static site.

Running an entry again (`verification`) needs torch and is imported from there.
"""

from timm_lipschitz.leaderboard.entries import add, find_entry
from timm_lipschitz.leaderboard.generate import Checked, build, check
from timm_lipschitz.leaderboard.ranking import primary_threat_model
from timm_lipschitz.leaderboard.reported import ReportedRow, load_reported
from timm_lipschitz.leaderboard.site import build_site, render_run_page

__all__ = [
    "Checked",
    "ReportedRow",
    "add",
    "build",
    "build_site",
    "check",
    "find_entry",
    "load_reported",
    "primary_threat_model",
    "render_run_page",
]
