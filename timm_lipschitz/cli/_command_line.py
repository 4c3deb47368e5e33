"""The command line itself, in words that can be typed again."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence

import typer

__all__ = ["ARGUMENTS", "print_next", "program", "typed_arguments", "words"]

ARGUMENTS = f"{__package__}.arguments"
"""Where the root group leaves the arguments that it was called with, in the context's ``meta``."""


def typed_arguments(ctx: typer.Context) -> list[str]:
    """What was typed behind the program's name, ``--debug`` left out."""
    return list(ctx.meta[ARGUMENTS])


def program() -> str:
    """The program as it can be called from here: not every environment is on the path."""
    name = "timm-lipschitz"
    if shutil.which(name):
        return name
    if os.path.basename(sys.argv[0]) == name:
        return shlex.quote(os.path.relpath(sys.argv[0]))
    return f"{shlex.quote(sys.executable)} -m timm_lipschitz"


def words(*arguments: str) -> str:
    """A command as one would type it: the program, then ``arguments``, quoted where needed."""
    return " ".join([program(), *map(shlex.quote, arguments)])


def print_next(commands: Sequence[str]) -> None:
    """What one would type next, one command a line."""
    typer.echo("\n".join(["", "next:", *(f"  {command}" for command in commands)]))
