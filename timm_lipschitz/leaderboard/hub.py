"""One commit to a repository on the Hugging Face hub, as a value that can be looked at before it is sent."""

import warnings
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from timm_lipschitz.errors import HubError, InvalidInputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["RepoType", "Upload", "send"]

_OF_A_NEW_SPACE = {"style.css", "index.html", "README.md"}
"""What the hub puts into a new static Space."""

RepoType: TypeAlias = Literal["model", "dataset", "space"]


@dataclass(frozen=True)
class Upload:
    """The files of a repository by their paths in it.

    Attributes:
        repo_id: ``USER/NAME``.
        mirror: the repository is to hold ``files`` and nothing else.

    Raises:
        InvalidInputError: a ``repo_id`` that the hub does not allow.
    """

    repo_id: str
    repo_type: RepoType
    files: Mapping[str, bytes]
    message: str
    mirror: bool = False

    def __post_init__(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            if self.repo_id.count("/") != 1:
                raise HFValidationError("user and repository are both needed")
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise InvalidInputError(f"{self.repo_id!r} is not USER/REPOSITORY on the hub: {error}") from error

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


def send(upload: Upload, api: "HfApi", *, private: bool = False, delete: bool = False) -> str:
    """Create the repository where there is none, and commit the files, all at once. Returns the commit's address.

    ``private`` decides about a repository that is created; one that exists stays as it is. What a mirror has to delete
    is deleted only with ``delete``: the repository may be somebody's other one.

    Raises:
        HubError: the hub is out of reach or refuses, or a mirror would delete what nobody allowed; the repository holds
            what it held before.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repository: dict[str, Any] = {"repo_id": upload.repo_id, "repo_type": upload.repo_type}
    sdk = {"space_sdk": "static"} if upload.repo_type == "space" else {}
    try:
        api.create_repo(**repository, private=private, exist_ok=True, **sdk)  # type: ignore[arg-type]
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path, data) for path, data in upload.files.items()
        ]
        if upload.mirror:
            others = set(api.list_repo_files(**repository)) - set(upload.files) - {".gitattributes"}
            if not delete:
                _require_none(others - _OF_A_NEW_SPACE, upload)
            operations += [CommitOperationDelete(path) for path in sorted(others)]
        with warnings.catch_warnings():  # a Space whose pages link to the records holds tables on purpose
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file", UserWarning)
            commit = api.create_commit(**repository, operations=operations, commit_message=upload.message)
        return str(commit.commit_url)
    except HubError:
        raise
    except Exception as error:  # noqa: BLE001  # the hub's client, its transport and its checks each have their own
        reason = _without_token(f"{type(error).__name__}: {error}", api.token)
        # No chain: a traceback of the transport may show the headers of its request
        raise HubError(f"{upload.repo_type} {upload.repo_id} could not be written ({reason})") from None


def _require_none(others: Set[str], upload: Upload) -> None:
    if not others:
        return
    some = ", ".join(sorted(others)[:5]) + (", ..." if len(others) > 5 else "")
    raise HubError(
        f"{upload.repo_type} {upload.repo_id} holds {len(others)} files that are not among those to be sent ({some}); "
        "nothing was sent: allow with --delete that they are deleted, or publish to a repository of its own"
    )


def _without_token(text: str, token: object) -> str:
    return text.replace(token, "<token>") if isinstance(token, str) and token else text
