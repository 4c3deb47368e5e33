"""Uploads on the command line: shown first, sent only with a token."""

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..leaderboard.hub import Upload

__all__ = ["upload_or_show"]


def upload_or_show(upload: "Upload", *, dry_run: bool, private: bool, delete: bool = False) -> None:
    """List the files of an upload, and send them unless ``dry_run``.

    ``delete`` allows a mirror to delete what is not sent. Raises `HubError` if the hub refuses, or if there is no token
    to send them with.
    """
    from huggingface_hub import HfApi, get_token

    from ..errors import HubError
    from ..leaderboard.hub import send
    from ._console import output

    token = None if dry_run else get_token()
    for path, data in upload.files.items():
        output().print(f"  {len(data):>12,}  {path}", markup=False)
    total = f"{len(upload.files)} files, {upload.size:,} bytes"
    if dry_run:
        typer.echo(f"dry run: {total} would go to {upload.repo_type} {upload.repo_id}")
        return
    if token is None:
        raise HubError(
            f"{total} would go to {upload.repo_type} {upload.repo_id}; nothing was sent, since there is no token: run "
            "hf auth login, or set HF_TOKEN"
        )
    api = HfApi(token=token, library_name="timm-lipschitz")
    typer.echo(f"{total}: {send(upload, api, private=private, delete=delete)}")
