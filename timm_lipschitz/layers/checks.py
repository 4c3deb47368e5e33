"""What every layer checks of its arguments and of the samples it is asked about."""

from numbers import Integral

from ..errors import InvalidInputError

__all__ = ["check_sizes", "require_channels"]


def check_sizes(layer: str, **sizes: int) -> None:
    """Raises `InvalidInputError` naming the layer and the first size that is not a positive integer."""
    for name, value in sizes.items():
        if not isinstance(value, Integral) or value < 1:
            raise InvalidInputError(f"{layer}: {name} must be a positive integer, not {value!r}")


def require_channels(layer: str, channels: int, in_shape: tuple[int, ...]) -> None:
    """Raises `InvalidInputError` for samples that are no images of so many channels."""
    if len(in_shape) != 3 or in_shape[0] != channels:
        raise InvalidInputError(
            f"{layer} takes images of shape ({channels}, height, width), not {tuple(in_shape)}; create it with as many "
            "in_channels"
        )
