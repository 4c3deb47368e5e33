"""``timm-lipschitz leaderboard``: add runs, build the tables and the site, check that all is in order."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ._options import BatchSizeOption, DataDirOption, DeviceOption

__all__ = ["leaderboard"]

leaderboard = typer.Typer(
    name="leaderboard",
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Add runs to leaderboards, build their tables and pages, check and publish them.

    Examples:
      timm-lipschitz leaderboard add runs/mine
      timm-lipschitz leaderboard build
      timm-lipschitz leaderboard check
      timm-lipschitz leaderboard site --out site
    """,
)


LARGEST_DATA = 1 << 36  # bytes, of a data set that is resized to what a record states


class RepositoryKind(StrEnum):
    """What a leaderboard is published as."""

    dataset = "dataset"
    space = "space"


class ExportFormat(StrEnum):
    """Whose form an entry is exported in."""

    robustbench = "robustbench"


EntryArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ENTRY", help="Data set and id, such as mnist/sandwich_cnn.mnist.", show_default=False)
]

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
    from ..leaderboard import check as check_entries

    checked = check_entries(leaderboards)
    for entry, modules in checked.asserted.items():
        typer.echo(f"{entry}: asserted, not proved: {'; '.join(modules)}")
    typer.echo(f"{checked.entries} {'entry' if checked.entries == 1 else 'entries'} in {leaderboards}, all in order")


@leaderboard.command()
def verify(
    entry: EntryArgument,
    sample: Annotated[int, typer.Option("--sample", min=1, metavar="N", help="Run so many random images again.")] = 100,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            max=2**63 - 1,
            metavar="N",
            help="Seed of sample and attacks.",
            show_default="drawn, printed",
        ),
    ] = None,
    attacks: Annotated[
        bool, typer.Option("--attacks", help="Repeat the attacks, on images that they were given; certified ones too.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            help="The model, where the record's name for it cannot be loaded; its weights must have the record's hash.",
            show_default="the one that the record names",
        ),
    ] = None,
    data_dir: DataDirOption = None,
    batch_size: BatchSizeOption = 250,
    device: DeviceOption = None,
    leaderboards: DirOption = Path("leaderboards"),
) -> None:
    r"""Run an entry again on a random sample of its images and compare them one by one.

    Weights and data must have the hashes of the record. Predictions and
    margins must be equal up to rounding, no recorded radius may be larger than
    the one measured now, and every image that the record calls certified must
    be certified again. With --attacks no certified image may break, and no
    more other images than chance explains. The entry is not changed. Exit code
    1 if the record is not confirmed, 3 if a certificate is wrong.

    Examples:
      timm-lipschitz leaderboard verify mnist/sandwich_cnn.mnist
      timm-lipschitz leaderboard verify mnist/sandwich_mlp.mnist \
          --sample 20 --attacks --seed 7
    """
    import secrets

    from ..data import load_dataset
    from ..device import pick_device
    from ..errors import RecordError
    from ..leaderboard import find_entry
    from ..leaderboard.verification import named_model
    from ..leaderboard.verification import verify as verify_run
    from ._stages import stages
    from ._subjects import load_subject

    run = find_entry(leaderboards, entry).run
    record = run.record
    spec = named_model(record) if model is None else model
    if record.dataset.size * record.model.pixels > LARGEST_DATA:
        raise RecordError(
            f"{entry}: {record.dataset.size} images of {record.model.input_size} are more than {LARGEST_DATA >> 30} "
            "GiB: the record states a size that nothing here has"
        )
    where = pick_device(device)
    drawn = secrets.randbelow(2**32) if seed is None else seed
    dataset = load_dataset(record.dataset.name, record.dataset.split, data_dir, img_size=(record.model.input_size[1:]))
    loaded = load_subject(spec, dataset, record.seed)
    typer.echo(f"{entry}: {spec}, up to {sample} random images, seed {drawn}")
    with stages() as show:
        found = verify_run(
            run,
            loaded,
            dataset,
            sample=sample,
            seed=drawn,
            attacks=attacks,
            batch_size=batch_size,
            device=where,
            progress=show,
        )
    for remark in found.remarks:
        typer.echo(f"remark: {remark}")
    found.require_confirmed()
    repeated = f", attacks repeated: {', '.join(found.attacks)}" if found.attacks else ""
    typer.echo(f"{len(found.sample)} images: prediction, margin and certified radius confirmed{repeated}")


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


@leaderboard.command()
def publish(
    to: Annotated[str, typer.Option("--to", metavar="USER/NAME", help="The repository.", show_default=False)],
    kind: Annotated[
        RepositoryKind, typer.Option("--as", help="The entries as a data set, or the site as a static Space.")
    ] = RepositoryKind.dataset,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as a private one.")] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete files of the repository that the leaderboards do not have.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    leaderboards: DirOption = Path("leaderboards"),
) -> None:
    """Publish the leaderboards on the Hugging Face hub, after a check of everything.

    One commit makes the repository what the leaderboards are. Where it holds
    files that they do not have, nothing is sent unless --delete allows that
    these are deleted. The token is that of `hf auth login` or HF_TOKEN.

    Examples:
      timm-lipschitz leaderboard publish --to me/robustness --dry-run
      timm-lipschitz leaderboard publish --to me/robustness --as space
      timm-lipschitz leaderboard publish --to me/robustness --delete
    """
    from ..leaderboard.board_repository import board_upload
    from ._uploading import upload_or_show

    upload_or_show(board_upload(leaderboards, to, kind.value), dry_run=dry_run, private=private, delete=delete)


@leaderboard.command(name="export")
def export_entry(
    entry: EntryArgument,
    form: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.robustbench,
    threat_model: Annotated[
        str | None,
        typer.Option("--threat-model", metavar="NORM:EPS", help="Which one, where AutoAttack ran at several."),
    ] = None,
    leaderboards: DirOption = Path("leaderboards"),
) -> None:
    r"""Print an entry in the form of another leaderboard.

    robustbench: a model_info file. What a record does not hold (link, authors,
    venue, additional data) is left empty; a footnote says where the run falls
    short of RobustBench's rules, such as all 10,000 images.

    Examples:
      timm-lipschitz leaderboard export mnist/sandwich_cnn.mnist \
          --format robustbench --threat-model l2:1.58
    """
    import json

    from ..leaderboard import find_entry
    from ..leaderboard.robustbench import model_info

    typer.echo(json.dumps(model_info(find_entry(leaderboards, entry).run.record, threat_model), indent=2))


def _dir(leaderboards: Path) -> list[str]:
    return [] if leaderboards == Path("leaderboards") else ["--dir", str(leaderboards)]
