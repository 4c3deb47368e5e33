"""What circular convolutions with a matrix at each frequency share, whatever makes the matrices: sizes and strides."""

import torch
from timm.layers import register_notrace_function
from torch import Tensor, nn

from ..errors import InvalidInputError
from .checks import check_sizes
from .explicit import Affine, Step
from .fusing import Fusible
from .operators import Circulant, Pointwise, SpaceToDepth

__all__ = ["FourierConv2d", "require_image_size"]


@register_notrace_function
def require_image_size(x: Tensor, height: int, width: int, layer: str) -> Tensor:
    """``x`` itself. Raises `InvalidInputError` naming both sizes unless ``x`` is (B, C, height, width)."""
    if torch.jit.is_scripting():
        torch._assert(x.shape[2] == height and x.shape[3] == width, "image size differs from the layer's img_size")
        return x
    if x.dim() != 4 or x.shape[2] != height or x.shape[3] != width:
        raise InvalidInputError(
            f"{layer}: weights belong to {height}x{width} images (B, C, {height}, {width}), the input is "
            f"{tuple(x.shape)}; resize the images, or create the model with img_size="
            f"{tuple(x.shape[2:]) if x.dim() == 4 else (height, width)} and train it there"
        )
    return x


class FourierConv2d(Fusible, nn.Module):
    """Base of circular convolutions (B, p, H, W) -> (B, q, H', W') whose weights belong to one image size.

    Stride 2 is space-to-depth (zero-padded bottom and right to even sizes, so H' = ceil(H/2)) followed by a layer on
    4p channels with half the kernel: a "3x3, stride 2" layer is a 1x1 layer there, one real matrix and no frequencies.

    Attributes:
        img_size, out_size: (H, W) and (H', W').
        inner_channels, inner_kernel: channels and kernel size behind space-to-depth.
        pointwise: whether that kernel is 1x1.

    Raises `InvalidInputError` for a stride other than 1 and 2, and for a kernel that is larger than the image.
    """

    bias: Tensor | None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, img_size: int | tuple[int, int], stride: int
    ):
        super().__init__()
        self.layer_name = type(self).__name__  # kept, because TorchScript cannot ask for it
        check_sizes(
            self.layer_name,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
        )
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        check_sizes(self.layer_name, height=height, width=width)
        if stride > 2:
            raise InvalidInputError(f"{self.layer_name}: stride {stride} is not supported; use 1 or 2")
        if kernel_size > min(height, width):
            raise InvalidInputError(
                f"{self.layer_name}: a {kernel_size}x{kernel_size} kernel is larger than the {height}x{width} image; "
                "use a smaller kernel or a larger image"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.img_size = (height, width)
        self.out_size = (height, width) if stride == 1 else ((height + 1) // 2, (width + 1) // 2)
        self.inner_channels = in_channels if stride == 1 else 4 * in_channels
        self.inner_kernel = kernel_size if stride == 1 else max(1, kernel_size // 2)
        self.pointwise = self.inner_kernel == 1

    def operator(self, matrices: Tensor) -> Circulant | Pointwise:
        """The map of matrices (q', p'), for a 1x1 layer, or (F, q', p'), one a frequency."""
        return (Pointwise if self.pointwise else Circulant)(matrices, self.out_size)

    def behind_stride(self, step: Step) -> list[Step]:
        """The layer's steps: ``step``, and what leads to it."""
        if self.stride == 1:
            return [step]
        return [Affine(SpaceToDepth((self.in_channels, *self.img_size)), None), step]

    def require_shape(self, in_shape: tuple[int, ...]) -> None:
        """Raises `InvalidInputError` for the shape of other images than the weights belong to."""
        if tuple(in_shape) != (self.in_channels, *self.img_size):
            raise InvalidInputError(
                f"{self.layer_name} was built for images of {(self.in_channels, *self.img_size)}, not "
                f"{tuple(in_shape)}; create the model with img_size={tuple(in_shape[1:])}"
            )

    def own_shape(self) -> tuple[tuple[int, ...], bool]:
        """The images that the weights belong to."""
        return (self.in_channels, *self.img_size), True

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, img_size={self.img_size}, "
            f"stride={self.stride}, bias={self.bias is not None}"
        )
