"""``timm-lipschitz evaluate``: clean, certified and attacked accuracy of the same images, in a record."""

from pathlib import Path
from typing import Annotated

import typer

from ._options import (
    BatchSizeOption,
    DataDirOption,
    DataOption,
    DeviceOption,
    ImageSizeOption,
    LimitOption,
    ModelArgument,
    SeedOption,
)

__all__ = ["evaluate"]


def evaluate(
    ctx: typer.Context,
    model: ModelArgument,
    data: DataOption,
    data_dir: DataDirOption = None,
    threat_model: Annotated[
        list[str] | None,
        typer.Option(
            "--threat-model",
            metavar="NORM:EPS",
            help="Such as l2:36/255 or linf:8/255; may be repeated.",
            show_default="l2:36/255 and l2:1.0",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack",
            metavar="NAME",
            help="autoattack, bisection, one of torchattacks (pgdl2, fab, cw, ...) or a set: l2-quick, l2-strong, "
            "linf-strong, minimal-norm, all; may be repeated.",
            show_default="none: certify only",
        ),
    ] = None,
    attack_at: Annotated[
        list[str] | None,
        typer.Option(
            "--attack-at",
            metavar="NORM:EPS",
            help="Attack at this threat model only, and certify at all of them; may be repeated.",
            show_default="every threat model",
        ),
    ] = None,
    limit: LimitOption = None,
    attack_limit: Annotated[
        int | None,
        typer.Option("--attack-limit", min=1, metavar="N", help="Attack only the first so many of the images."),
    ] = None,
    seed: SeedOption = 0,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            "--run-dir", metavar="DIR", help="A folder without a run, or with --resume its own; by default in runs/."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir; start it where there is none.")
    ] = False,
    audit: Annotated[
        int,
        typer.Option("--audit", min=0, metavar="N", help="At each eps, attack so many certified images too."),
    ] = 0,
    every_image: Annotated[
        bool,
        typer.Option(
            "--every-image",
            help="bisection and minimal-norm attacks look for the closest point of certified images too.",
        ),
    ] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Certify, say what would be attacked and how long at most; write nothing.")
    ] = False,
    record_id: Annotated[
        str | None,
        typer.Option("--id", metavar="NAME", help="Name of the record in a leaderboard; by default the model's."),
    ] = None,
    img_size: ImageSizeOption = None,
    batch_size: BatchSizeOption = 250,
    device: DeviceOption = None,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Attack the network through torch.compile; measure whether that is faster."),
    ] = False,
) -> None:
    r"""Certify and attack a model on the test images, and write a record with one row an image.

    Everything is certified first. At each threat model, every attack runs on
    the images that are classified correctly and not certified there; the
    others are decided. A model without a known bound is attacked on all its
    correct images. An attack that succeeds inside a certified radius stops
    the run (exit code 3).

    Every finished batch is kept in --run-dir: after an interrupt, --resume
    goes on, and the record is the same. Under torchrun the ranks share the
    work. Before the first attack comes an estimate of what is left.

    Examples:
      timm-lipschitz evaluate sandwich_cnn.mnist --data mnist
      timm-lipschitz evaluate sandwich_cnn.mnist --data mnist \
          --threat-model l2:1.0 --attack autoattack --limit 1000
      timm-lipschitz evaluate local-dir:runs/mine --data mnist \
          --threat-model l2:1.0 --threat-model l2:1.58 \
          --attack pgdl2 --attack cw --attack-limit 200 --run-dir runs/attacked
      torchrun --nproc-per-node 4 -m timm_lipschitz evaluate \
          sandwich_cnn.mnist --data mnist --attack autoattack \
          --run-dir runs/shared
    """
    from ..data import load_dataset
    from ..device import pick_device
    from ..errors import InvalidInputError
    from ..evaluation import DEFAULT_THREAT_MODELS, dry_run
    from ..evaluation import evaluate as run_evaluation
    from ..evaluation._ranks import Ranks
    from ..evaluation.plan import make_plan
    from ..records import make_record_id, safe_record_id
    from ._command_line import print_next, typed_arguments, words
    from ._console import output
    from ._folders import board_for, fresh_run_dir
    from ._interrupts import resumable
    from ._results import print_estimate, print_run
    from ._stages import stages
    from ._subjects import load_subject, refusals_as_notes
    from ._torchrun import words_again

    threat_models, attacks = threat_model or DEFAULT_THREAT_MODELS, attack or ()
    make_plan(threat_models, attacks, attack_at)  # a wrong name is known before data and model are read
    name = make_record_id(model) if record_id is None else safe_record_id(record_id)
    if run_dir is None and not dry and (resume or Ranks.of_environment().size > 1):
        raise InvalidInputError(
            f"--run-dir is needed {'to resume' if resume else 'under torchrun'}: name the run's folder"
        )
    folder = run_dir if run_dir is not None else fresh_run_dir(Path("runs") / f"{name}-{data}")
    where = pick_device(device)
    dataset = load_dataset(data, "test", data_dir, img_size=img_size)
    loaded = load_subject(model, dataset, seed)

    if dry:
        with refusals_as_notes(), stages() as show:
            print_estimate(
                dry_run(
                    loaded,
                    dataset,
                    threat_models,
                    attacks,
                    attack_at=attack_at,
                    limit=limit,
                    attack_limit=attack_limit,
                    audit=audit,
                    every_image=every_image,
                    seed=seed,
                    batch_size=batch_size,
                    device=where,
                    compile=compile,
                    progress=show,
                )
            )
        return
    again = typed_arguments(ctx)
    again += ["--run-dir", str(folder)] if run_dir is None else []
    again += [] if resume else ["--resume"]

    hint = f"finished batches are kept in {folder}; go on with\n  {words_again(*again)}"
    with resumable(hint), refusals_as_notes(), stages() as show:
        run = run_evaluation(
            loaded,
            dataset,
            threat_models,
            attacks,
            attack_at=attack_at,
            run_dir=folder,
            resume=resume,
            audit=audit,
            every_image=every_image,
            limit=limit,
            attack_limit=attack_limit,
            seed=seed,
            batch_size=batch_size,
            device=where,
            compile=compile,
            record_id=name,
            command=["timm-lipschitz", *typed_arguments(ctx)],
            progress=show,
            on_estimate=print_estimate,
        )
    if Ranks.of_environment().rank > 0:
        return  # rank 0 says it
    print_run(run)
    output().print(f"\nrecord: {folder / 'record.json'}", markup=False)
    print_next([words("leaderboard", "add", str(folder), *board_for(data, name))])
