import pytest
import torch

from timm_lipschitz.data import ImageDataset
from timm_lipschitz.training import Recipe


def blobs(count: int, split: str, seed: int) -> ImageDataset:
    """Images (1, 6, 6) of three classes, each bright in a row of its own, with noise: easy, but not trivial."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 100, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), 0, labels] += 120
    return ImageDataset(name="blobs", split=split, images=images, labels=labels, classes=("a", "b", "c"), source="test")


@pytest.fixture
def train_data() -> ImageDataset:
    return blobs(96, "train", 0)


@pytest.fixture
def validation_data() -> ImageDataset:
    return blobs(30, "validation", 1)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(epochs=3, batch_size=16, learning_rate=1e-2, warmup_epochs=1, margin=0.3, ema_decay=0.9)
