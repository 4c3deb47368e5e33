"""The family for every size of image: one set of weights, one bound, the same function folded."""

import pytest
import timm
import torch
from layer_contract import jacobian, relative_error
from models.narrow import narrow_model

from timm_lipschitz import certify, fold
from timm_lipschitz.certification import network_bound
from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.folding import explicit_steps
from timm_lipschitz.layers import GridPool2d, LipschitzSequential

SIZES = [28, 32, (45, 33), 224]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalized_head", [False, True])
def test_one_set_of_weights_is_certified_at_every_size(size: int | tuple[int, int], normalized_head: bool) -> None:
    model = narrow_model("sandwich_bcop_cnn", lipschitz=2.0, normalized_head=normalized_head)
    trained_at_32 = network_bound(explicit_steps(model))
    model.set_img_size(size)
    images = torch.rand(2, 3, *model.img_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(images)
    found = certify(model, images)
    assert torch.equal(found.prediction, logits.argmax(1))
    assert found.lipschitz == pytest.approx(trained_at_32.logits, rel=1e-9)  # 1 at every layer, the pooling included
    top = logits.topk(2).values
    torch.testing.assert_close(found.margin, top[:, 0] - top[:, 1], rtol=1e-9, atol=1e-12)
    assert (found.radius > 0).all()
    assert relative_error(fold(model)(images), logits) < 1e-12
    assert relative_error(fold(model, (3, *model.img_size))(images), logits) < 1e-12


def test_weights_are_the_same_whatever_size_the_model_was_made_for() -> None:
    small, large = (narrow_model("sandwich_bcop_cnn", img_size=size) for size in (28, 224))
    assert {n: p.shape for n, p in small.named_parameters()} == {n: p.shape for n, p in large.named_parameters()}
    large.load_state_dict(small.state_dict())
    x = torch.rand(2, 3, 40, 40, dtype=torch.float64)
    assert torch.equal(small(x), large(x))  # neither refuses what it was not made for
    assert (small.img_size, large.img_size) == ((28, 28), (224, 224))


@pytest.mark.parametrize("size", [8, 40, 68])
def test_no_slope_exceeds_the_bound_below_and_above_the_grid(size: int) -> None:
    model = narrow_model("sandwich_bcop_cnn", img_size=size, in_chans=1, num_classes=3)
    bound = network_bound(explicit_steps(model))
    image = torch.rand(1, size, size, dtype=torch.float64)
    slopes = jacobian(model, image)
    assert torch.linalg.matrix_norm(slopes, 2) <= bound.logits
    assert (torch.cdist(slopes, slopes) <= bound.pairs).all()


def test_network_without_hidden_layers_is_certified_through_its_pooling() -> None:
    model = narrow_model("sandwich_bcop_cnn", in_chans=1, num_classes=3, img_size=68)
    family = model.head.family
    bare = type(model)(family, ((32, 1), (64, 2)), in_chans=1, num_classes=3, img_size=68).double().eval()
    bound = network_bound(explicit_steps(bare))
    assert 0 < bound.pairs[0, 1] <= 2**0.5 * (1 + 1e-9)
    slopes = jacobian(bare, torch.rand(1, 68, 68, dtype=torch.float64))
    assert (torch.cdist(slopes, slopes) <= bound.pairs).all()


def test_images_scaled_up_keep_their_prediction_and_scale_their_radius() -> None:
    """Pixels repeated s times: s times the norm of the image, and of what must be added to it."""
    torch.manual_seed(0)
    model = timm.create_model("sandwich_bcop_cnn", in_chans=1).eval()  # starts without biases, its kernels as one tap
    x = torch.full((1, 1, 32, 32), 0.7)
    small = certify(model, x)
    model.set_img_size(128)
    large = certify(model, x.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert torch.equal(small.prediction, large.prediction)
    assert small.radius > 0
    assert float(large.radius / small.radius) == pytest.approx(4.0, rel=1e-4)


def test_size_of_a_fourier_network_is_fixed() -> None:
    model = narrow_model("sandwich_cnn")
    assert model.fixed_input_size
    model.set_img_size(32)
    with pytest.raises(
        InvalidInputError, match="the weights belong to 32x32 images; create the model with img_size=40"
    ):
        model.set_img_size(40)


@pytest.mark.parametrize("size", [0, (8,), (8.0, 8.0)])
def test_sizes_without_meaning_are_refused(size: object) -> None:
    with pytest.raises(InvalidInputError, match="img_size must be a positive int or"):
        narrow_model("sandwich_bcop_cnn").set_img_size(size)


@pytest.mark.parametrize("in_shape", [(1, 32, 32), (3, 32), (3,)])
def test_explicit_steps_of_other_shapes_are_refused(in_shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="was built for images of"):
        narrow_model("sandwich_bcop_cnn").explicit(in_shape)


def test_parts_survive_timms_surgery() -> None:
    model = timm.create_model("sandwich_bcop_cnn", device="meta")
    assert isinstance(model.stages, LipschitzSequential)
    assert isinstance(model.head.pool, GridPool2d)
    assert not model.pretrained_cfg["fixed_input_size"]
    model.reset_classifier(5)
    x = torch.empty(2, 3, 40, 40, device="meta")
    assert model(x).shape == (2, 5)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 64, 10, 10)
    model.prune_intermediate_layers([1])
    assert isinstance(model.stages, LipschitzSequential)
    assert model(x).shape == (2, 32, 20, 20)
