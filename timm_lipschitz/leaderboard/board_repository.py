"""A leaderboard as a repository of the hub: its entries as a data set, or its site as a static Space."""

import tempfile
from os.path import lexists
from pathlib import Path
from typing import Literal

from timm_lipschitz.leaderboard.entries import GENERATED, dataset_names, entry_files, record_ids
from timm_lipschitz.leaderboard.generate import check
from timm_lipschitz.leaderboard.hub import Upload
from timm_lipschitz.leaderboard.reported import REPORTED
from timm_lipschitz.leaderboard.site import build_site
from timm_lipschitz.records import read_regular_file

__all__ = ["board_upload"]

_MAX_BYTES = 1 << 30


def board_upload(leaderboards_dir: Path | str, repo_id: str, kind: Literal["dataset", "space"]) -> Upload:
    """What is published of a leaderboard: its entries and tables, or the site, which holds the entries too.

    What the repository holds beyond that is deleted when it is sent, so that it is the leaderboard as it stands.

    Raises:
        RecordError: an entry, a table or a published figure is not in order (`check`).
    """
    root = Path(leaderboards_dir)
    count = check(root).entries
    files = _entries(root) if kind == "dataset" else _site(root)
    return Upload(repo_id, kind, files, f"{count} {'entry' if count == 1 else 'entries'}", mirror=True)


def _entries(root: Path) -> dict[str, bytes]:
    paths = [root / dataset / name for dataset in dataset_names(root) for name in GENERATED]
    for dataset in dataset_names(root):
        for record_id in record_ids(root, dataset):
            files = entry_files(root, dataset, record_id)
            paths += [files.record, files.images, files.attacks, files.run_info, files.examples]
    if (root / REPORTED).is_dir():
        paths += sorted(path for path in (root / REPORTED).iterdir() if not path.name.startswith("."))
    # Regular files alone, no links: a leaderboard that somebody sent must not publish what it points to
    found = {path.relative_to(root).as_posix(): read_regular_file(path, _MAX_BYTES) for path in paths if lexists(path)}
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/leaderboard.csv\n" for name in dataset_names(root))
    front = "---\npretty_name: Certified and attacked accuracy\ntags:\n- certified-robustness\n- timm-lipschitz\n"
    readme = root / "README.md"
    about = read_regular_file(readme, _MAX_BYTES).decode(errors="replace") if lexists(readme) else "# Leaderboards\n"
    found["README.md"] = f"{front}{f'configs:{chr(10)}{configs}' if configs else ''}---\n{about}".encode()
    return found


def _site(root: Path) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_site(root, folder)
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    front = "---\ntitle: Certified and attacked accuracy\nsdk: static\napp_file: index.html\npinned: false\n---\n"
    return {**dict(sorted(files.items())), "README.md": f"{front}Open `index.html`.\n".encode()}
