"""Digests of the published files, to tell them from damaged, edited or mixed-up ones."""

import hashlib

from timm_lipschitz.errors import DataError

# IDX files: SHA-256 of the unpacked bytes, since the gzip wrapper differs between mirrors. CIFAR: the MD5 that
# torchvision publishes for each file. cifar10_jpeg: SHA-256 of the Parquet file.
_PUBLISHED: dict[str, dict[str, str]] = {
    "mnist": {
        "train-images-idx3-ubyte": "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "cifar10": {
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
        "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "md5:40351d587109b95175f43aff81a1287e",
    },
    "cifar100": {
        "train": "md5:16019d7e3df5f24257cddd939b257f8d",
        "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
    "cifar10_jpeg": {
        "train.parquet": "sha256:87dc09022ff0ad72c4b901d102578596c42c632819bd70471ce0eef29accd947",
        "test.parquet": "sha256:31aaa9def6d417d7361cbe0b91934b152f38f58ad6ec26005f945921d34522b7",
    },
}


def is_published(dataset: str, file: str, content: bytes | bytearray) -> bool:
    """Whether ``content`` is the published file called ``file`` of ``dataset``.

    Raises:
        DataError: it is the file of that name of another data set, such as Fashion-MNIST's in place of MNIST's.
    """
    for other, files in _PUBLISHED.items():
        if file not in files:
            continue
        algorithm, _, expected = files[file].partition(":")
        if hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() != expected:
            continue
        if other != dataset:
            raise DataError(
                f"{file} in this folder belongs to data set {other!r}, not to {dataset!r}; load {other!r} instead"
            )
        return True
    return False
