"""``timm-lipschitz push``: a model to the Hugging Face hub, with a card, to be loaded back by ``hf-hub:``."""

from pathlib import Path
from typing import Annotated

import typer

from ._options import ModelArgument

__all__ = ["push"]


def push(
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", metavar="USER/REPO", help="The repository.", show_default=False)],
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", metavar="DIR", help="A run of evaluate on this model, whose figures the card shows."),
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option("--entry", metavar="ENTRY", help="The same of a leaderboard, such as mnist/sandwich_cnn.mnist."),
    ] = None,
    leaderboards: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the leaderboards lie.")] = Path(
        "leaderboards"
    ),
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
) -> None:
    r"""Put a model on the Hugging Face hub: weights (safetensors), configuration, card.

    timm.create_model("hf-hub:USER/REPO", pretrained=True) gives it back, and so
    does every command here. The card shows figures only from a run of exactly
    these weights. The token is that of `hf auth login` or HF_TOKEN.

    Examples:
      timm-lipschitz push sandwich_cnn.mnist --to me/sandwich-mnist --dry-run
      timm-lipschitz push local-dir:runs/mine --to me/mine --run-dir runs/eval
    """
    from ..errors import InvalidInputError
    from ..leaderboard import find_entry
    from ..leaderboard.model_repository import model_upload
    from ..records import read_run
    from ._subjects import load_subject
    from ._uploading import upload_or_show

    if run_dir is not None and entry is not None:
        raise InvalidInputError("--run-dir and --entry are two ways to name one run: give one of them")
    run = read_run(run_dir) if run_dir is not None else find_entry(leaderboards, entry).run if entry else None
    upload_or_show(model_upload(load_subject(model, None), to, run), dry_run=dry_run, private=private)
