"""The MNIST test split that ships in the package."""

import gzip
import hashlib
from importlib import resources

from timm_lipschitz.data._idx import assemble, file_names
from timm_lipschitz.data._loaded import LoadedImages
from timm_lipschitz.data.info import dataset_info
from timm_lipschitz.errors import DataError

# SHA-256 of the gzip files.
_DIGESTS = {
    "t10k-images-idx3-ubyte.gz": "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    "t10k-labels-idx1-ubyte.gz": "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
}


def read_packaged_mnist_test() -> LoadedImages:
    """MNIST's 10,000 test images from the package's own files.

    Raises:
        DataError: the installed files are missing or are not those that were shipped.
    """
    folder = resources.files("timm_lipschitz.data") / "assets" / "mnist"
    contents: list[bytearray] = []
    for name in (f"{file}.gz" for file in file_names("test")):
        try:
            with (folder / name).open("rb") as file:
                packed = file.read()
        except OSError as error:
            raise DataError(
                f"the packaged MNIST file {name} cannot be read ({error}); reinstall timm_lipschitz"
            ) from error
        digest = hashlib.sha256(packed).hexdigest()
        if digest != _DIGESTS[name]:
            raise DataError(
                f"the packaged MNIST file {name} is damaged: SHA-256 {digest}, shipped as {_DIGESTS[name]}; reinstall "
                "timm_lipschitz"
            )
        contents.append(bytearray(gzip.decompress(packed)))
    return assemble(dataset_info("mnist"), "test", contents[0], contents[1], list(_DIGESTS), "timm_lipschitz package")
