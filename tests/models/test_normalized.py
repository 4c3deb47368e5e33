"""timm's own models: evaluated on pixels, normalised by the constants that they were trained with."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.evaluation import evaluate
from timm_lipschitz.models import load_model
from timm_lipschitz.models.normalized import Normalized, of_pixels

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels(count: int, channels: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


def configured(model: nn.Module, **cfg: object) -> nn.Module:
    model.pretrained_cfg = cfg  # type: ignore[assignment]
    return model


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """As downloaded, but for random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("resnet18")
    model = timm.create_model("resnet18", pretrained=False, num_classes=3)
    save_for_hf(model, str(folder), safe_serialization=True)
    return load_model(f"local-dir:{folder}").model


def test_resnet18_normalises_itself(resnet18: nn.Module) -> None:
    images = pixels(2).float() / 255
    normalised = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert isinstance(resnet18, Normalized)
    assert not any(module.training for module in resnet18.modules())
    with torch.no_grad():
        torch.testing.assert_close(resnet18(images), resnet18.model(normalised))
        assert not torch.allclose(resnet18(images), resnet18.model(images), rtol=1e-2)


def test_resnet18_is_attacked_on_pixels(resnet18: nn.Module, tmp_path: Path) -> None:
    """What the network sees lies in [0, 1] and within eps in pixel units; normalised is what is inside of it."""
    images = pixels(3)
    with torch.no_grad():
        labels = resnet18(images.float() / 255).argmax(dim=1)
    data = ImageDataset(
        name="noise", split="test", images=images, labels=labels, classes=("a", "b", "c"), source="test"
    )
    outside, inside = [], []
    handles = [
        resnet18.register_forward_hook(lambda _module, inputs, _output: outside.append(inputs[0].detach().clone())),
        resnet18.model.register_forward_hook(lambda _module, inputs, _output: inside.append(inputs[0].detach())),
    ]
    run = evaluate(resnet18, data, ["linf:2/255"], ["fgsm"], run_dir=tmp_path)
    for handle in handles:
        handle.remove()
    seen = torch.cat(outside)
    assert seen.min() >= 0
    assert seen.max() <= 1
    clean = images.float() / 255
    nearest = (seen[:, None] - clean[None]).abs().flatten(2).amax(dim=2).amin(dim=1)  # (R,)
    assert nearest.max() <= 2 / 255 * (1 + 2e-5)  # rounded to float32
    assert nearest.max() > 1.9 / 255
    assert torch.cat(inside).min() < -1
    assert run.record.certification is None
    assert run.record.results.clean.count == run.record.results.threat_models[0].attacks[0].attacked.count == 3


@pytest.mark.parametrize(("channels", "mean"), [(1, (sum(MEAN) / 3,)), (3, MEAN), (2, (sum(MEAN) / 3,) * 2)])
def test_other_channels_get_the_average(channels: int, mean: tuple[float, ...]) -> None:
    model = of_pixels(configured(nn.Flatten(), mean=MEAN, std=STD), channels)
    assert isinstance(model, Normalized)
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(mean))
    assert model(torch.rand(2, channels, 4, 4)).shape == (2, 16 * channels)


def test_models_of_pixels_stay_as_they_are() -> None:
    for model in (nn.Flatten(), configured(nn.Flatten(), mean=(0.0,), std=(1.0,))):
        assert of_pixels(model, 3) is model
    assert not isinstance(load_model("sandwich_mlp", num_classes=3, in_chans=1, img_size=(6, 6)).model, Normalized)


def test_a_model_of_any_size_is_not_told_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "is_model_pretrained", lambda spec: False)
    loaded = load_model("resnet18", num_classes=3, in_chans=1, img_size=(28, 28))
    assert isinstance(loaded.model, Normalized)
    assert loaded.model.num_classes == 3
    with torch.no_grad():
        assert loaded.model(torch.rand(1, 1, 28, 28)).shape == (1, 3)


def test_normalisation_outside_a_certificate_is_refused() -> None:
    model = timm.create_model("sandwich_mlp", img_size=6, num_classes=3)
    model.pretrained_cfg = {**model.pretrained_cfg, "std": (0.25,)}
    with pytest.raises(InvalidInputError, match="outside the network, where no certificate counts it"):
        of_pixels(model, 1)
    with pytest.raises(InvalidInputError, match=r"divide by std \(0.0,\)"):
        of_pixels(configured(nn.Flatten(), std=(0.0,)), 1)
