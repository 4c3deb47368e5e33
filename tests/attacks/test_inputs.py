"""Bad images, labels, models and settings are refused by name."""

import pytest
import torch
from attacks.faulty import NonFiniteWhere, Outputs, fake_attack, querying_attack
from attacks.tiny_models import SHAPE, Linear, grey_images, predicted
from torch import nn

from timm_lipschitz.attacks import run_attack
from timm_lipschitz.errors import AttackError, InvalidInputError, NonFiniteError
from timm_lipschitz.threat_model import ThreatModel

L2 = ThreatModel.parse("l2:0.5")
IDLE = fake_attack(lambda x, y: x)


def setting(num_classes=3):
    model, images = Linear(num_classes), grey_images(5)
    return model, images, predicted(model, images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x * 255).to(torch.uint8), "divide 0..255 pixels by 255"),
        (lambda x: x * 255, "divide by 255"),
        (lambda x: x + 0.5, r"sample 0 .* outside \[0, 1\]"),
        (lambda x: x.masked_fill(x == x[2, 0, 1, 1], float("nan")), "sample 2 .* not finite"),
        (lambda x: x.permute(0, 2, 3, 1), "channels last"),
        (lambda x: x[0], r"\(B, C, H, W\)"),
        (lambda x: x.double() + 1e-12, "not all pixels are exact in float32"),
        (lambda x: x.numpy(), "Tensor"),
    ],
)
def test_images(change, message):
    model, images, labels = setting()
    with pytest.raises(InvalidInputError, match=message):
        run_attack(model, change(images), labels, L2, IDLE, seed=0)


def test_float64_images_that_float32_holds_are_fine():
    model, images, labels = setting()
    result = run_attack(model, images.double(), labels, L2, IDLE, seed=0)
    assert result.adversarial.dtype == torch.float32
    assert torch.equal(result.adversarial, images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y.float(), "labels must be integers"),
        (lambda y: y + 3, r"outside 0\.\.2"),
        (lambda y: -1 - y, r"outside 0\.\.2"),
        (lambda y: y[:-1], "4 labels for 5 images"),
        (lambda y: y[:, None], r"shape \(B,\)"),
        (lambda y: y.tolist(), "Tensor"),
    ],
)
def test_labels(change, message):
    model, images, labels = setting()
    with pytest.raises(InvalidInputError, match=message):
        run_attack(model, images, change(labels), L2, IDLE, seed=0)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_batch_size(batch_size):
    model, images, labels = setting()
    with pytest.raises(InvalidInputError, match="batch_size is"):
        run_attack(model, images, labels, L2, IDLE, seed=0, batch_size=batch_size)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_name_the_image(value):
    model, images, labels = setting()
    images[:, 0, 0, 0] = torch.tensor([0.3, 0.4, 0.35, 0.7, 0.2])
    with pytest.raises(NonFiniteError, match="image 3 has the logits"):
        run_attack(NonFiniteWhere(model, 0.6, value), images, labels, L2, IDLE, seed=0, batch_size=2)


@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_non_finite_logits_met_by_the_attack_are_an_error(value):
    model, images, _ = setting()
    guarded = NonFiniteWhere(model, 0.8, value)
    labels = predicted(guarded, images)
    run_attack(guarded, images, labels, L2, querying_attack(lambda x: x + 0.05), seed=0)
    with pytest.raises(NonFiniteError, match="while ask attacked images 0, 1, 2, 3, 4"):
        run_attack(guarded, images, labels, L2, querying_attack(lambda x: x + 0.5), seed=0)


def test_one_non_finite_image_does_not_hide_behind_another():
    """NaN that an attack feeds in is not the model's fault; it must not cover NaN that the model gives elsewhere."""
    model, images, _ = setting()
    guarded = NonFiniteWhere(model, 0.8, float("nan"))
    labels = predicted(guarded, images)

    def spoiled(x):
        points = x.clone()
        points[0, 0, 1, 1] = float("nan")
        return points

    run_attack(guarded, images, labels, L2, querying_attack(spoiled), seed=0)
    with pytest.raises(NonFiniteError, match="while ask"):
        run_attack(guarded, images, labels, L2, querying_attack(lambda x: spoiled(x) + 0.5), seed=0)


@pytest.mark.parametrize("error", [AssertionError, IndexError])
def test_failure_inside_a_library_is_an_attack_error(error):
    model, images, labels = setting()

    def fail(x, y):
        raise error("index 9 is out of bounds")

    with pytest.raises(
        AttackError, match=r"fake-0 failed inside its library on images 0, 1, .*(1, 6, 6).*out of bounds"
    ):
        run_attack(model, images, labels, L2, fake_attack(fail), seed=0)


def test_points_of_another_shape():
    model, images, labels = setting()
    with pytest.raises(AttackError, match=r"shape \(4, 1, 6, 6\) for images \(5, 1, 6, 6\)"):
        run_attack(model, images, labels, L2, fake_attack(lambda x, y: x[1:]), seed=0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: z.softmax(dim=1), "returns probabilities"),
        (lambda z: (z, z), "returns a tuple"),
        (lambda z: z[:, :1], "K >= 2"),
        (lambda z: z[:-1], "attacks need logits"),
        (lambda z: z[..., None], "attacks need logits"),
        (lambda z: z.double(), "returns torch.float64"),
        (lambda z: z + torch.rand(1), "not deterministic"),
    ],
)
def test_outputs(function, message):
    model, images, labels = setting()
    with pytest.raises(InvalidInputError, match=message):
        run_attack(Outputs(model, function), images, labels, L2, IDLE, seed=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.log_softmax(dim=1),
        lambda z: z.sigmoid(),  # inside [0, 1], other sums
        lambda z: 9 * (z - z.mean(dim=1, keepdim=True)) + 1 / 3,  # sums of 1, outside [0, 1]
    ],
)
def test_logits_that_only_resemble_probabilities_are_fine(function):
    model, images, labels = setting()
    assert not run_attack(Outputs(model, function), images, labels, L2, IDLE, seed=0).success.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_model_in_another_precision(dtype):
    model, images, labels = setting()
    with pytest.raises(InvalidInputError, match=f"parameter linear.weight of Linear is {dtype}"):
        run_attack(model.to(dtype), images, labels, L2, IDLE, seed=0)


def test_callable_that_is_no_module():
    model, images, labels = setting()
    with pytest.raises(InvalidInputError, match=r"wrap it in a torch\.nn\.Module"):
        run_attack(model.forward, images, labels, L2, IDLE, seed=0)  # pyright: ignore[reportArgumentType]


class FirstPixels(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4]


@pytest.mark.parametrize("name", ["autoattack", "pgdl2", "cw", "square"])
def test_model_without_parameters_that_returns_a_view(name, few_steps, capsys):
    """torchattacks looks for a parameter; Square writes into the logits, here a view of the image."""
    model, images = FirstPixels(), grey_images(3, SHAPE)
    given = images.clone()
    run_attack(model, images, predicted(model, images), L2, name, seed=0)
    assert torch.equal(images, given)
    assert capsys.readouterr() == ("", "")
