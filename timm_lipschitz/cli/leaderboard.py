"""``timm-lipschitz leaderboard``: add runs, build the tables and the site, check that all is in order."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = ["leaderboard"]

leaderboard = typer.Typer(
    name="leaderboard",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Add runs to leaderboards, build their tables and pages, check them.

    Examples:
      timm-lipschitz leaderboard add runs/mine
      timm-lipschitz leaderboard build
      timm-lipschitz leaderboard check
      timm-lipschitz leaderboard site --out site
    """,
)

DirOption: TypeAlias = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Where the leaderboards lie, one folder a data set.")
]


@leaderboard.command()
def add(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="What evaluate wrote.", show_default=False)],
    leaderboards: DirOption = Path("leaderboards"),
) -> None:
    """Check a run and copy it into the leaderboard of its data set.

    A partial run is refused, and so is another run of the same name. The same
    run again is kept once.

    Examples:
      timm-lipschitz leaderboard add runs/mine
      timm-lipschitz leaderboard add runs/mine --dir elsewhere
    """
    from ..leaderboard import add as add_run
    from ._command_line import print_next, words

    typer.echo(f"entry: {add_run(run_dir, leaderboards)}")
    print_next([words("leaderboard", "build", *_dir(leaderboards))])


@leaderboard.command()
def build(leaderboards: DirOption = Path("leaderboards")) -> None:
    """Write the Markdown and CSV tables of every data set from its records.

    Examples:
      timm-lipschitz leaderboard build
    """
    from ..leaderboard import build as build_tables

    for path in build_tables(leaderboards):
        typer.echo(path)


@leaderboard.command()
def check(leaderboards: DirOption = Path("leaderboards")) -> None:
    """Check every entry, and that the tables are up to date.

    Schema, hashes, figures, and certified <= attacked <= clean for every image.
    Entries whose certificates rest on a bound that somebody asserts are named.

    Examples:
      timm-lipschitz leaderboard check
    """
    from ..leaderboard import asserted_entries
    from ..leaderboard import check as check_entries

    count = check_entries(leaderboards)
    for entry, modules in asserted_entries(leaderboards).items():
        typer.echo(f"{entry}: asserted, not proved: {'; '.join(modules)}")
    typer.echo(f"{count} {'entry' if count == 1 else 'entries'} in {leaderboards}, all in order")


@leaderboard.command()
def site(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the pages.", show_default=False)],
    leaderboards: DirOption = Path("leaderboards"),
) -> None:
    """Write the leaderboards as a site of static pages.

    The pages need no server and no network: open index.html, or serve the
    folder as it is.

    Examples:
      timm-lipschitz leaderboard site --out site
    """
    from ..leaderboard import build_site

    typer.echo(build_site(leaderboards, out))


def _dir(leaderboards: Path) -> list[str]:
    return [] if leaderboards == Path("leaderboards") else ["--dir", str(leaderboards)]
