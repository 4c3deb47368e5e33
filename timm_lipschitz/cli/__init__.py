"""The command line: ``timm-lipschitz COMMAND ...``, one file a command.

A command's module imports nothing heavy when it is loaded (torch, timm, pyarrow and the like come in inside the
function), so that every ``--help`` answers at once; a test holds every command to it. To add a command, write
``cli/<name>.py`` with one typed function whose docstring is the help, examples included, and add it below. Errors,
interrupts and exit codes are handled in one place, ``_group``: a command just raises. It puts ``_interrupts.resumable``
around work that can be resumed, and shows progress through ``_console.progress``.
"""

import os
from typing import Annotated

import typer

from ._group import CommandGroup
from .certify import certify
from .datasets import datasets
from .evaluate import evaluate
from .export import export
from .leaderboard import leaderboard
from .models import models
from .push import push
from .quickstart import quickstart
from .train import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="timm-lipschitz",
    cls=CommandGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(requested: bool) -> None:
    if requested:
        from .. import __version__

        typer.echo(f"timm-lipschitz {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere on the line.")
    ] = False,
) -> None:
    """Networks with a built-in Lipschitz bound: train, certify, attack and compare them.

    [bold]timm-lipschitz COMMAND --help[/bold] explains a command, with examples.
    """


for _command in (quickstart, models, datasets, train, certify, evaluate, push):
    app.command()(_command)
app.add_typer(leaderboard)
app.add_typer(export)


def main() -> None:
    """Entry point of the console script and of ``python -m timm_lipschitz``."""
    # OpenMP's threads sleep while they wait for each other. By default they spin, which on a machine whose cores are
    # shared with other work makes small batches ten times slower. To be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="timm-lipschitz")
