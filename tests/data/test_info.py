"""The registry of data sets."""

import pytest

from timm_lipschitz.data import dataset_info, dataset_names, load_dataset
from timm_lipschitz.errors import DataError, InvalidInputError

NAMES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "cifar10_jpeg", "tiny_imagenet", "image_folder")


def test_names():
    assert dataset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_info_is_complete(name):
    info = dataset_info(name)
    assert info.name == name
    assert info.license
    assert info.validation_size > 0
    if name != "image_folder":
        assert info.homepage
        assert info.citation
        assert info.num_classes is not None
        assert info.image_shape is not None
    if info.classes is not None:
        assert len(set(info.classes)) == info.num_classes


def test_known_facts():
    shapes = {name: (dataset_info(name).num_classes, dataset_info(name).image_shape) for name in NAMES[:-1]}
    assert shapes == {
        "mnist": (10, (1, 28, 28)),
        "fashion_mnist": (10, (1, 28, 28)),
        "cifar10": (10, (3, 32, 32)),
        "cifar100": (100, (3, 32, 32)),
        "cifar10_jpeg": (10, (3, 32, 32)),
        "tiny_imagenet": (200, (3, 64, 64)),
    }
    assert "CC BY-SA 3.0" in dataset_info("mnist").license


def test_unknown_name():
    with pytest.raises(InvalidInputError, match=r"'cifar_10'.*Did you mean 'cifar10'\?.*tiny_imagenet"):
        dataset_info("cifar_10")
    with pytest.raises(InvalidInputError, match="unknown data set"):
        load_dataset("../mnist")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_no_folder_and_wrong_folder(name, split, tmp_path):
    if (name, split) != ("mnist", "test"):
        with pytest.raises(DataError, match=f"{name}.*no data folder given") as caught:
            load_dataset(name, split)
        assert "DIR/" in str(caught.value)
    with pytest.raises(DataError, match="not found") as caught:
        load_dataset(name, split, tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(caught.value)
    assert "does not exist" in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_command_that_fetches_the_files_is_runnable(name, tmp_path):
    import shlex

    import torchvision

    odd = tmp_path / """it's a "folder" """
    with pytest.raises(DataError) as caught:
        load_dataset(name, "train", odd)
    line = next(line for line in str(caught.value).splitlines() if "torchvision" in line)
    program, option, code = shlex.split(line.split(": ", 1)[1])
    assert (program, option) == ("python", "-c")
    seen = {}
    cls = code.split("import ")[1].split(";")[0]
    stub = compile(code.split("; ", 1)[1], "code", "eval")
    eval(stub, {cls: lambda root, download: seen.update(root=root, download=download)})  # noqa: S307
    assert seen == {"root": str(odd), "download": True}
    assert hasattr(torchvision.datasets, cls)


def test_unknown_split():
    with pytest.raises(InvalidInputError, match=r"'val'.*validation"):
        load_dataset("mnist", "val")
