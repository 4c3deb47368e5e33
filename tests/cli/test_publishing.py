"""``push``, ``leaderboard publish`` and ``leaderboard export`` on the command line, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
from cli.calls import call
from leaderboard.boards import add_run
from records.sample_runs import sample_run

from timm_lipschitz.leaderboard import build, hub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_run(tmp_path, tmp_path / "boards", sample_run())
    build(tmp_path / "boards")
    return tmp_path / "boards"


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_thisIsASecret")
    return "hf_thisIsASecret"


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[hub.Upload, bool, bool]]:
    uploads: list[tuple[hub.Upload, bool, bool]] = []

    def send(upload: hub.Upload, api: object, *, private: bool, delete: bool) -> str:
        uploads.append((upload, private, delete))
        return "https://hub.example/commit"

    monkeypatch.setattr(hub, "send", send)
    return uploads


def test_a_dry_run_sends_nothing(root: Path, token: str, sent: list) -> None:
    result = call("leaderboard", "publish", "--to", "me/board", "--dir", root, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "mnist/sandwich_cnn.mnist.json" in result.stdout
    assert "would go to dataset me/board" in result.stdout
    assert sent == []
    assert token not in result.output


def test_without_a_token_nothing_is_sent(root: Path, no_token: None, sent: list) -> None:
    result = call("leaderboard", "publish", "--to", "me/board", "--dir", root)
    assert result.exit_code == 1
    assert "mnist/sandwich_cnn.mnist.json" in result.stdout
    assert "nothing was sent, since there is no token: run hf auth login" in result.stderr
    assert sent == []


def test_with_a_token(root: Path, token: str, sent: list) -> None:
    result = call("leaderboard", "publish", "--to", "me/board", "--dir", root, "--as", "space", "--private")
    assert result.exit_code == 0, result.output
    ((upload, private, delete),) = sent
    assert (upload.repo_type, upload.repo_id, private, delete) == ("space", "me/board", True, False)
    assert result.stdout.rstrip().endswith("https://hub.example/commit")
    assert token not in result.output
    assert call("leaderboard", "publish", "--to", "me/board", "--dir", root, "--delete").exit_code == 0
    assert [delete for _, _, delete in sent] == [False, True]


def test_push(trained: Path, token: str, sent: list) -> None:
    result = call("push", f"local-dir:{trained}", "--to", "me/mine")
    assert result.exit_code == 0, result.output
    ((upload, _, _),) = sent
    sent_weights = safetensors.torch.load(upload.files["model.safetensors"])
    weights = safetensors.torch.load_file(trained / "model.safetensors")
    assert sent_weights.keys() == weights.keys()
    assert all(sent_weights[name].equal(weights[name]) for name in weights)
    dry = call("push", f"local-dir:{trained}", "--to", "me/mine", "--dry-run")
    assert "would go to model me/mine" in dry.stdout
    assert len(sent) == 1


def test_push_with_a_run_of_other_weights(root: Path, trained: Path, sent: list) -> None:
    entry = ("--entry", "mnist/sandwich_cnn.mnist", "--dir", root)
    result = call("push", f"local-dir:{trained}", "--to", "me/mine", *entry)
    assert result.exit_code == 1
    assert "evaluate this model, or leave the record out" in result.stderr
    twice = call("push", f"local-dir:{trained}", "--to", "me/mine", *entry, "--run-dir", trained)
    assert "give one of them" in twice.stderr


def test_export(root: Path) -> None:
    result = call("leaderboard", "export", "mnist/sandwich_cnn.mnist", "--dir", root, "--threat-model", "l2:1.0")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["eps"] == "1.0"
    unknown = call("leaderboard", "export", "mnist/sandwich_cnn.mnist", "--dir", root, "--format", "other")
    assert unknown.exit_code == 2
