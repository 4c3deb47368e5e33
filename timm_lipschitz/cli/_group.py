"""What happens around a command: errors to one line and an exit code, interrupts, ``--debug``."""

import errno
import traceback
import unicodedata
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import TimmLipschitzError
from ._command_line import ARGUMENTS
from ._interrupts import Terminated, sigterm_as_exception

__all__ = ["CommandGroup"]

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}

# "No such option", "missing argument" and the like: typer exports the class under no name of its own.
_UsageError: Any = typer.BadParameter.__base__


class CommandGroup(TyperGroup):
    """The root group of the command line.

    The message of an error goes to stderr, without a traceback unless ``--debug`` stands anywhere on the line. Exit
    codes: that of an error of the package, 1 for any other, 2 for wrong usage, 130 for Ctrl-C, 143 for SIGTERM.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = [arg for arg in args if arg != "--debug"]
        if "--debug" in args:
            args = ["--debug", *ctx.meta[ARGUMENTS]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with sigterm_as_exception():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, _UsageError):
            raise
        except KeyboardInterrupt as interrupt:
            if ctx.params["debug"]:
                traceback.print_exc()
            typer.echo("\n".join(["interrupted", *getattr(interrupt, "__notes__", [])]), err=True)
            raise typer.Exit(143 if isinstance(interrupt, Terminated) else 130) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # whoever read our output has gone, as in "| head": typer ends quietly
            if ctx.params["debug"]:
                traceback.print_exc()
            else:
                typer.echo(_one_line(error), err=True)
            raise typer.Exit(getattr(error, "exit_code", 1)) from None


def _one_line(error: Exception) -> str:
    if isinstance(error, (TimmLipschitzError, OSError)):
        return _visible(f"error: {error}")
    return _visible(f"error: unexpected {type(error).__name__}: {error} (add --debug for the traceback)")


def _visible(text: str) -> str:
    """What would steer a terminal, or reorder the text, as its escape: messages repeat what files and people say."""
    return "".join(c if c == "\n" or unicodedata.category(c) not in _INVISIBLE else ascii(c)[1:-1] for c in text)
