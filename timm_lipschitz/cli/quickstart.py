"""``timm-lipschitz quickstart``: the main job on what ships with the package, offline, in a few minutes."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["quickstart"]

THREAT_MODELS = ("l2:36/255", "l2:1.0", "l2:1.58")
ATTACKED_AT = ("l2:1.0", "l2:1.58")
ATTACKS = ("autoattack", "pgdl2", "cw")


def quickstart(
    ctx: typer.Context,
    attack_limit: Annotated[
        int, typer.Option("--attack-limit", min=1, metavar="N", help="Attack the first so many images.")
    ] = 16,
    model: Annotated[str, typer.Option("--model", hidden=True)] = "sandwich_cnn.mnist",
    limit: Annotated[int | None, typer.Option("--limit", min=1, hidden=True)] = None,
) -> None:
    """Certify and attack a shipped MNIST model, offline, in a few minutes.

    Certifies all 10,000 test images, attacks the first few with the standard
    AutoAttack and with PGD and CW of torchattacks, prints a table, and writes
    a record and a page into runs/quickstart (or runs/quickstart-2, ...:
    nothing is overwritten).

    Examples:
      timm-lipschitz quickstart
      timm-lipschitz quickstart --attack-limit 100
    """
    from ..data import load_dataset
    from ..evaluation import evaluate as run_evaluation
    from ..leaderboard import render_run_page
    from ..records import write_atomic
    from ._command_line import print_next, typed_arguments, words
    from ._console import output
    from ._folders import board_for, fresh_run_dir
    from ._interrupts import resumable
    from ._results import print_run
    from ._stages import stages
    from ._subjects import load_subject

    folder = fresh_run_dir(Path("runs") / "quickstart")
    with resumable("start again at any time: what was begun is left as it is"), stages() as show:
        dataset = load_dataset("mnist")
        run = run_evaluation(
            load_subject(model, dataset),
            dataset,
            THREAT_MODELS,
            ATTACKS,
            attack_at=ATTACKED_AT,
            run_dir=folder,
            limit=limit,
            attack_limit=attack_limit,
            command=["timm-lipschitz", *typed_arguments(ctx)],
            progress=show,
        )
    page = folder / "index.html"
    write_atomic(page, render_run_page(run, links={"Record": "record.json"}).encode())
    print_run(run)
    output().print(f"\nrecord: {folder / 'record.json'}\npage:   {page}", markup=False)
    more = ["--threat-model", "l2:1.0", "--attack", "autoattack", "--attack-limit", "200", "--run-dir", "runs/mlp"]
    print_next(
        [
            words("evaluate", "sandwich_mlp.mnist", "--data", "mnist", *more),
            words("leaderboard", "add", str(folder), *board_for("mnist", run.record.id)),
            words("train", "sandwich_mlp", "--data", "mnist", "--data-dir", "DIR", "--out", "runs/mine"),
        ]
    )
