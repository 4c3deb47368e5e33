"""Running out of memory halves the batch and goes on."""

import pytest
import torch
from attacks.faulty import fake_attack
from attacks.tiny_models import Linear, grey_images, predicted
from torch import nn

from timm_lipschitz.attacks import clean_logits, run_attack
from timm_lipschitz.errors import AttackError, OutOfMemoryError
from timm_lipschitz.threat_model import ThreatModel

NEAR = ThreatModel.parse("l2:0.3")


class Small(nn.Module):
    """Has memory for ``room`` images, or for their gradients alone; raises ``failure`` beyond."""

    def __init__(self, room: int, failure: Exception, gradients: bool = True) -> None:
        super().__init__()
        self.model, self.room, self.failure, self.gradients = Linear(5), room, failure, gradients

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if (images.requires_grad or not self.gradients) and len(images) > self.room:
            raise self.failure
        return self.model(images)


@pytest.mark.parametrize(
    "failure",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["gpu", "cpu"],
)
def test_a_batch_is_halved_until_it_fits(failure, few_steps):
    images = grey_images(10)
    model = Small(3, failure)
    labels = predicted(model, images)
    halved = run_attack(model, images, labels, NEAR, "pgdl2", seed=0, batch_size=10)
    assert halved.halved == 1 + 2  # 10 -> 5 + 5 -> 3 + 2 + 3 + 2
    assert run_attack(Small(10, failure), images, labels, NEAR, "pgdl2", seed=0).halved == 0
    deterministic = [
        run_attack(Small(room, failure), images, labels, NEAR, "deepfool", seed=0).distance for room in (1, 10)
    ]
    torch.testing.assert_close(*deterministic, rtol=1e-4, atol=0)


def test_one_image_that_does_not_fit_is_an_error(few_steps):
    images = grey_images(2)
    model = Small(0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(AttackError, match="runs out of memory even on image 0 alone"):
        run_attack(model, images, predicted(model, images), NEAR, "pgdl2", seed=0)


def test_clean_images_that_do_not_fit_are_halved_too():
    images, failure = grey_images(10), torch.OutOfMemoryError("CUDA out of memory")
    whole = clean_logits(Linear(5), images, 10, torch.device("cpu"))
    halved = clean_logits(Small(3, failure, gradients=False), images, 10, torch.device("cpu"))
    torch.testing.assert_close(halved, whole, rtol=1e-6, atol=0)
    with pytest.raises(OutOfMemoryError, match="even on one image alone: CUDA out of memory"):
        clean_logits(Small(0, failure, gradients=False), images, 10, torch.device("cpu"))


def test_other_errors_are_not_taken_for_it():
    def broken(images, labels):
        raise RuntimeError("something else")

    model, images = Linear(5), grey_images(2)
    with pytest.raises(RuntimeError, match="something else"):
        run_attack(model, images, predicted(model, images), NEAR, fake_attack(broken), seed=0)
