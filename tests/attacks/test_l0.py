"""Attacks that change few pixels, measured in the threat model's norm."""

import pytest
import torch
import torchattacks
from attacks.tiny_models import Linear, grey_images, predicted

from timm_lipschitz.attacks import run_attack
from timm_lipschitz.threat_model import ThreatModel

NAMES = ("onepixel", "pixle", "sparsefool", "jsma")
FAR = ThreatModel.parse("l2:6")


class Brightness(torch.nn.Module):
    """Logits that two pixels decide, (B, 1, 6, 6) -> (B, K): class 0 as long as no two are far from grey."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        weight = 1.5 ** torch.arange(float(num_classes))
        self.weight = torch.nn.Parameter(weight - weight.mean())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        peak = (images - 0.5).flatten(1).pow(4).sum(dim=1, keepdim=True)
        return self.weight * (peak - 0.1)


@pytest.mark.parametrize("num_classes", [2, 3, 12])
@pytest.mark.parametrize("name", NAMES)
def test_few_pixels_break_what_few_pixels_decide(name, num_classes):
    """Among others with more and fewer classes than the ten that JSMA takes for granted."""
    model, images = Brightness(num_classes), grey_images(2)
    images[:, :, 0, 0] = 1.0  # one is there already: Pixle only copies pixels
    labels = predicted(model, images)
    assert not labels.any()
    result = run_attack(model, images, labels, FAR, name, seed=0)
    found = ~result.distance.isnan()
    assert found.any()
    assert torch.equal(predicted(model, result.adversarial) != labels, found)
    delta = result.adversarial.double() - images.double()
    assert torch.equal(FAR.distance(delta)[found], result.distance[found])
    if name == "onepixel":
        assert ((delta != 0).flatten(1).sum(dim=1) <= 1).all()


def test_jsma_aims_at_a_class_that_exists():
    """Left alone it aims at the label's successor of ten, which a network of three classes never predicts."""
    model, images = Linear(3), grey_images(1)
    model.linear.bias.data[2] += 5
    labels = predicted(model, images)
    assert labels.tolist() == [2]
    bare = torchattacks.JSMA(model.eval())
    with pytest.raises(IndexError):  # the defect: class 3
        bare(images, labels)
    assert run_attack(model, images, labels, FAR, "jsma", seed=0).forwards > 2
