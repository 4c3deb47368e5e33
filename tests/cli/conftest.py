"""A small data set on disk, a model trained on it, and interrupts."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.calls import TRAIN_OPTIONS, call, write_images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder with a training set of 60 and a test set of 12 images, 3x8x8, three classes."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", 20, seed=0)
    write_images(root / "test", 4, seed=1)
    return root


@pytest.fixture(scope="session")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``train`` writes."""
    out = tmp_path_factory.mktemp("trained") / "model"
    result = call("train", "sandwich_mlp", "--data", "image_folder", "--data-dir", images, *TRAIN_OPTIONS, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str, int], None]:
    """Ctrl-C in place of the n-th call of an object's function."""

    def patch(owner: object, name: str, number: int) -> None:
        function, calls = getattr(owner, name), 0

        def interrupted(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == number:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, interrupted)

    return patch


@pytest.fixture
def without_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``module:function`` of a file in the working folder, which gives a network without a known bound."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "plain_networks.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))\n"
    )
    return "plain_networks:make"
