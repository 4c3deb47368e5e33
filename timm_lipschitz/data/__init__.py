"""Named data sets and their splits, held in memory as uint8; pixels in [0, 1]; checks, augmentation and batches.

>>> dataset = load_dataset("mnist")  # the test split ships in the package
>>> train = load_dataset("cifar10", "train", "data")
>>> for images, labels in BatchLoader(train, 256, shuffle=True, augment=PadCropFlip(4)).epoch(0): ...
"""

from timm_lipschitz.data.augment import Augmentation, PadCropFlip
from timm_lipschitz.data.checks import check_classes, check_images, check_labels
from timm_lipschitz.data.dataset import ImageDataset
from timm_lipschitz.data.info import DatasetInfo, dataset_info, dataset_names
from timm_lipschitz.data.load import load_dataset
from timm_lipschitz.data.loader import BatchLoader
from timm_lipschitz.data.splits import SPLITS, VALIDATION_SEED

__all__ = [
    "SPLITS",
    "VALIDATION_SEED",
    "Augmentation",
    "BatchLoader",
    "DatasetInfo",
    "ImageDataset",
    "PadCropFlip",
    "check_classes",
    "check_images",
    "check_labels",
    "dataset_info",
    "dataset_names",
    "load_dataset",
]
