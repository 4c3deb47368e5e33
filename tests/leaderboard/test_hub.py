"""Uploads, sent by the hub's own client to a stand-in for the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from leaderboard.boards import add_run
from leaderboard.hub_stand_in import TOKEN, Hub, hub
from records.sample_runs import sample_run

from timm_lipschitz.errors import HubError, InvalidInputError, RecordError
from timm_lipschitz.leaderboard import build
from timm_lipschitz.leaderboard.board_repository import board_upload
from timm_lipschitz.leaderboard.hub import Upload, send


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub() as state:
        yield state


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_run(tmp_path, tmp_path / "boards", sample_run())
    build(tmp_path / "boards")
    return tmp_path / "boards"


def api(stand_in: Hub) -> HfApi:
    return HfApi(endpoint=stand_in.endpoint, token=TOKEN)


def test_files_arrive_in_one_commit(stand_in: Hub) -> None:
    upload = Upload("me/mine", "model", {"a.txt": b"1", "folder/b.bin": b"\0\xff"}, "two files")
    address = send(upload, api(stand_in), private=True)

    assert address == f"{stand_in.endpoint}/me/mine/commit/{'0' * 40}"
    assert stand_in.files == {"models/me/mine": {".gitattributes": b"", "a.txt": b"1", "folder/b.bin": b"\0\xff"}}
    assert stand_in.commits == [["header", "file a.txt", "file folder/b.bin"]]
    wanted = stand_in.created[0]
    assert wanted.get("visibility") == "private" or wanted.get("private") is True
    assert stand_in.tokens == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("mirror", [True, False])
def test_only_a_mirror_deletes_what_it_does_not_have(stand_in: Hub, mirror: bool) -> None:
    stand_in.files["datasets/me/board"] = {".gitattributes": b"", "old.json": b"{}", "kept.json": b"{}"}
    send(Upload("me/board", "dataset", {"kept.json": b"[]"}, "new", mirror=mirror), api(stand_in), delete=True)
    expected = {".gitattributes": b"", "kept.json": b"[]", **({} if mirror else {"old.json": b"{}"})}
    assert stand_in.files["datasets/me/board"] == expected


def test_a_mirror_deletes_nothing_that_nobody_allowed(stand_in: Hub) -> None:
    """A mistyped name must not cost somebody's other repository; what a new Space comes with is no loss."""
    upload = Upload("me/board", "space", {"a.json": b"[]"}, "new", mirror=True)
    theirs = {f"{number}.bin": b"work" for number in range(7)}
    stand_in.files["spaces/me/board"] = {".gitattributes": b"", "style.css": b"", **theirs}
    with pytest.raises(HubError, match=r"holds 7 files .*\(0.bin, .*4.bin, \.\.\.\); nothing was sent: .* --delete"):
        send(upload, api(stand_in))
    assert stand_in.files["spaces/me/board"] == {".gitattributes": b"", "style.css": b"", **theirs}
    for name in theirs:
        del stand_in.files["spaces/me/board"][name]
    send(upload, api(stand_in))
    assert stand_in.files["spaces/me/board"] == {".gitattributes": b"", "a.json": b"[]"}


@pytest.mark.parametrize("refuse", ["create", "preupload", "commit"])
def test_a_refusal_is_an_error_without_the_token(stand_in: Hub, refuse: str) -> None:
    stand_in.refuse = refuse
    with pytest.raises(HubError, match="dataset me/board could not be written") as error:
        send(Upload("me/board", "dataset", {"a": b"1"}, "a"), api(stand_in))
    assert TOKEN not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__
    assert "a" not in stand_in.files.get("datasets/me/board", {})


def test_a_hub_out_of_reach() -> None:
    with pytest.raises(HubError, match="could not be written"):
        send(Upload("me/mine", "model", {"a": b"1"}, "a"), HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))


@pytest.mark.parametrize("name", ["mine", "me/mine/too", "../mine", "me/..", "me/mi ne", "", "datasets/me/x"])
def test_names_that_the_hub_does_not_know(name: str) -> None:
    with pytest.raises(InvalidInputError, match="is not USER/REPOSITORY"):
        Upload(name, "model", {}, "")


def test_a_leaderboard_as_a_data_set(stand_in: Hub, root: Path) -> None:
    (root / "README.md").write_text("# Boards\n")
    upload = board_upload(root, "me/board", "dataset")
    send(upload, api(stand_in))
    stored = stand_in.files["datasets/me/board"]

    on_disk = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    card = stored.pop("README.md").decode()
    assert {name: data for name, data in stored.items() if name != ".gitattributes"} == {
        name: data for name, data in on_disk.items() if name != "README.md"
    }
    assert card.startswith("---\npretty_name:")
    assert "- config_name: mnist\n  data_files: mnist/leaderboard.csv\n---\n# Boards\n" in card
    assert upload.message == "1 entry"


def test_a_leaderboard_as_a_space(stand_in: Hub, root: Path) -> None:
    send(board_upload(root, "me/board", "space"), api(stand_in))
    stored = stand_in.files["spaces/me/board"]
    assert stand_in.created[0]["sdk"] == "static"
    assert "sdk: static\napp_file: index.html" in stored["README.md"].decode()
    assert {"index.html", "datasets/mnist.html", "records/mnist/sandwich_cnn.mnist.json"} <= set(stored)


def test_a_leaderboard_that_is_not_in_order_is_not_published(root: Path) -> None:
    (root / "mnist" / "README.md").write_text("nicer")
    with pytest.raises(RecordError, match="is out of date"):
        board_upload(root, "me/board", "dataset")


def test_a_link_does_not_publish_what_it_points_to(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (root / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(RecordError):
        board_upload(root, "me/board", "dataset")


def test_hidden_files_stay_here(root: Path) -> None:
    (root / "mnist" / ".env").write_text("key")
    (root / "reported").mkdir()
    (root / "reported" / ".env").write_text("key")
    assert not any(".env" in name for name in board_upload(root, "me/board", "dataset").files)
