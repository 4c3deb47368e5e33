"""Static pages of a leaderboard: they work from a file system, load nothing from a network, and need no server."""

from timm_lipschitz.leaderboard.site.build import build_site, render_run_page

__all__ = ["build_site", "render_run_page"]
