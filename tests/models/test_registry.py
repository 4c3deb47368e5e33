"""What `timm.create_model` gives: sizes, settings, and the refusal of settings without meaning."""

import math
from typing import Any

import pytest
import timm
import torch

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.layers import ContractionHead, NormalizedLinear
from timm_lipschitz.models import LipschitzNet

# Free parameters at 3x32x32 with 10 classes (the multi-layer perceptron: 1x28x28; sandwich_dnn_64: 3x64x64 with 200).
PARAMETERS = {
    "sandwich_mlp": 299_862,
    "sandwich_cnn": 2_981_006,
    "sandwich_cnn_medium": 11_909_294,
    "sandwich_cnn_large": 47_608_046,
    "sandwich_dnn": 25_708_106,
    "sandwich_dnn_64": 39_142_152,
    "sandwich_bcop_cnn": 2_933_334,
    "sandwich_bcop_cnn_medium": 11_719_734,
    "sandwich_bcop_cnn_large": 46_852_086,
    "orthogonal_cnn": 2_995_370,
    "orthogonal_cnn_medium": 11_966_794,
    "orthogonal_cnn_large": 47_837_834,
    "aol_cnn": 3_020_970,
    "aol_cnn_medium": 12_069_194,
    "aol_cnn_large": 48_247_434,
    "sll_resnet": 41_385_862,
    "sll_resnet_medium": 78_803_870,
    "sll_resnet_large": 118_266_370,
    "sll_resnet_xlarge": 236_446_550,
    "plain_cnn": 3_020_970,
    "plain_cnn_medium": 12_069_194,
    "plain_cnn_large": 48_247_434,
}
SMALL = ["sandwich_mlp", "sandwich_cnn", "sandwich_bcop_cnn", "orthogonal_cnn", "aol_cnn", "sll_resnet", "plain_cnn"]
BOUNDED = [name for name in PARAMETERS if not name.startswith("plain_cnn")]


def on_meta(name: str, **kwargs: Any) -> LipschitzNet:
    """A model without memory for its weights: made in a millisecond."""
    return timm.create_model(name, device="meta", **kwargs)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters(name: str) -> None:
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name not in ("sandwich_mlp", "sandwich_dnn_64")])
def test_a_bare_name_is_the_papers_3x32x32_with_10_classes_and_untrained(name: str) -> None:
    model = on_meta(name)
    assert (model.in_chans, model.img_size, model.num_classes) == (3, (32, 32), 10)
    assert model.lipschitz == (1.0 if name in BOUNDED else None)
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert not model.pretrained_cfg.get("file")


def test_the_papers_network_for_tiny_imagenet_is_built_for_its_images() -> None:
    model = on_meta("sandwich_dnn_64")
    assert (model.in_chans, model.img_size, model.num_classes) == (3, (64, 64), 200)
    assert (model.num_features, model.head.layers[0].in_features) == (512, 512 * 4 * 4)
    assert isinstance(model.get_classifier(), NormalizedLinear)


@pytest.mark.parametrize(
    "name", ["sandwich_cnn.mnist", "sandwich_mlp.mnist", "sandwich_bcop_cnn.mnist", "sandwich_bcop_cnn.fashion_mnist"]
)
def test_tags_of_weights_for_grey_images_are_1x28x28(name: str) -> None:
    config = timm.models.get_pretrained_cfg(name)
    assert (config.input_size, config.num_classes, config.mean, config.std) == ((1, 28, 28), 10, (0.0,), (1.0,))
    assert config.fixed_input_size


@pytest.mark.parametrize("name", ["sandwich_cnn.mnist", "sandwich_bcop_cnn.mnist", "sandwich_bcop_cnn.fashion_mnist"])
def test_a_network_takes_its_tags_input_size(name: str) -> None:
    model = on_meta(name)
    assert (model.in_chans, model.img_size) == (1, (28, 28))
    assert model(torch.empty(2, 1, 28, 28, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in PARAMETERS for size in (28, 32, (45, 33), 64) if size == (45, 33) or name in SMALL],
)
def test_any_size_channels_and_classes(name: str, size: int | tuple[int, int]) -> None:
    bound = {"lipschitz": 0.25} if name in BOUNDED else {}
    model = on_meta(name, img_size=size, in_chans=2, num_classes=7, **bound)
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.empty(3, 2, height, width, device="meta")
    assert model(x).shape == (3, 7)
    assert (model.img_size, model.in_chans, model.num_classes) == ((height, width), 2, 7)
    assert model.lipschitz == bound.get("lipschitz")
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (3, model.head_hidden_size)


def test_heads() -> None:
    assert isinstance(on_meta("sandwich_dnn").get_classifier(), NormalizedLinear)
    assert isinstance(on_meta("sandwich_dnn", normalized_head=False).get_classifier(), ContractionHead)
    assert isinstance(on_meta("sandwich_cnn").get_classifier(), ContractionHead)
    assert isinstance(on_meta("sandwich_cnn", normalized_head=True).get_classifier(), NormalizedLinear)


def test_reset_classifier_keeps_the_kind_of_head() -> None:
    for normalized_head in (True, False):
        model = timm.create_model("sandwich_mlp", img_size=4, normalized_head=normalized_head).double().eval()
        kind = type(model.get_classifier())
        model.reset_classifier(3)
        assert type(model.get_classifier()) is kind
        assert model.get_classifier().weight.dtype == torch.float64
        assert not model.get_classifier().training
        assert model(torch.zeros(1, 1, 4, 4, dtype=torch.float64)).shape == (1, 3)


@pytest.mark.parametrize("bound", [0.5, 1.0, 4.0])
def test_lipschitz_scales_the_function(bound: float) -> None:
    """Without biases the network is positively homogeneous, so its bound is a factor of its logits."""
    torch.manual_seed(0)
    unit = timm.create_model("sandwich_mlp", img_size=4).eval()
    scaled = timm.create_model("sandwich_mlp", img_size=4, lipschitz=bound).eval()
    scaled.load_state_dict(unit.state_dict())
    x = torch.rand(5, 1, 4, 4)
    torch.testing.assert_close(scaled(x), bound * unit(x))


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_bounds_without_meaning_are_refused(bound: float) -> None:
    with pytest.raises(InvalidInputError, match=f"lipschitz must be positive and finite, not {bound!r}"):
        on_meta("sandwich_mlp", lipschitz=bound)


@pytest.mark.parametrize("size", [0, -4, (0, 8), (8,), (8, 8, 8), (8.0, 8.0)])
def test_sizes_without_meaning_are_refused(size: Any) -> None:
    with pytest.raises(InvalidInputError, match="img_size must be a positive int or"):
        on_meta("sandwich_mlp", img_size=size)


def test_an_image_too_small_for_the_kernels_is_refused_naming_both() -> None:
    with pytest.raises(InvalidInputError, match="a 3x3 kernel is larger than the 2x2 image"):
        on_meta("sandwich_cnn", img_size=4)


@pytest.mark.parametrize("kwargs", [{"in_chans": 0}, {"img_size": 8, "in_chans": -1}])
def test_channels_without_meaning_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="in_channels must be a positive integer"):
        on_meta("sandwich_cnn", **kwargs)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(TypeError, match="no_such_setting"):
        on_meta("sandwich_cnn", no_such_setting=1)
    with pytest.raises(InvalidInputError, match="global_pool 'avg' is not known"):
        on_meta("sandwich_cnn", global_pool="avg")


def test_an_image_of_another_size_is_refused_naming_both() -> None:
    model = timm.create_model("sandwich_cnn", img_size=8, in_chans=1)
    with pytest.raises(
        InvalidInputError, match=r"images of \(1, 8, 8\), not \(1, 8, 9\); create the model with img_size=\(8, 9\)"
    ):
        model(torch.zeros(1, 1, 8, 9))
