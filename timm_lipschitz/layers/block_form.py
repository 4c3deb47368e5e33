"""Frequency responses as real matrices, as `fourier.fourier_product` takes them.

A response is complex, (.., q, p) at each frequency of the half plane (H // 2 + 1, W) flattened. Its *block form* has
one real (2q x 2p) matrix for each pair of real numbers that the transform of a real image gives, F of them (see
`fourier`): ``[[c, -d], [d, c]]`` for a complex entry c + i d, and ``[[c, 0], [0, d]]`` where a pair is two coefficients
that are real. Blocks of products and of adjoints are products and adjoints of blocks.

It is written in one pass, and so is its derivative: both move as much memory as the products themselves.
"""

import torch
from timm.layers import register_notrace_function
from torch import Tensor

__all__ = ["block_form", "phase_blocks"]


def _complex_runs(height: int, width: int) -> list[tuple[int, int, int]]:
    """First pair, first frequency and length of the runs in which a pair is one complex coefficient."""
    if height % 2 == 1:
        return [(0, 0, (height // 2 + 1) * width)]
    inner = (width + 1) // 2  # 0 < v < inner are the complex frequencies of the real rows u = 0 and u = H/2
    last_row = height // 2 * width
    return [
        (1, 1, inner - 1),
        (width // 2 + 1, last_row + 1, inner - 1),
        (width, width, last_row - width),
    ]


def _real_places(height: int, width: int) -> list[tuple[int, int, int]]:
    """Pair, place in the pair and frequency of the coefficients that are real, where two of them make a pair."""
    if height % 2 == 1:
        return []
    last_row = height // 2 * width
    if width % 2 == 1:  # v = 0 of both rows
        return [(0, 0, 0), (0, 1, last_row)]
    half = width // 2  # v = 0 and v = W/2 of each row
    return [(0, 0, 0), (0, 1, half), (half, 0, last_row), (half, 1, last_row + half)]


def _to_blocks(response: Tensor, height: int, width: int) -> Tensor:
    """(L, (H // 2 + 1) W, q, K, p) complex -> (L, F, 2, q, 2, K, p)."""
    real, imag = response.real, response.imag
    many, _, rows, phases, columns = response.shape
    blocks = real.new_empty(many, (height + 1) // 2 * width, 2, rows, 2, phases, columns)
    for pair, frequency, length in _complex_runs(height, width):
        part = blocks[:, pair : pair + length]
        part[:, :, 0, :, 0] = real[:, frequency : frequency + length]
        part[:, :, 1, :, 1] = real[:, frequency : frequency + length]
        part[:, :, 1, :, 0] = imag[:, frequency : frequency + length]
        part[:, :, 0, :, 1] = -imag[:, frequency : frequency + length]
    for pair, place, frequency in _real_places(height, width):
        blocks[:, pair, place, :, place] = real[:, frequency]
        blocks[:, pair, place, :, 1 - place] = 0.0
    return blocks


def _of_blocks(blocks: Tensor, height: int, width: int) -> Tensor:
    """The transpose of `_to_blocks`, where complex numbers are pairs of real ones."""
    many, _, _, rows, _, phases, columns = blocks.shape
    gathered = blocks.new_empty(many, (height // 2 + 1) * width, rows, phases, columns, 2)
    if height % 2 == 0:  # the halves of the real rows that no pair holds
        gathered[:, :width] = 0.0
        gathered[:, height // 2 * width :] = 0.0
    for pair, frequency, length in _complex_runs(height, width):
        part, to = blocks[:, pair : pair + length], gathered[:, frequency : frequency + length]
        to[..., 0] = part[:, :, 0, :, 0] + part[:, :, 1, :, 1]
        to[..., 1] = part[:, :, 1, :, 0] - part[:, :, 0, :, 1]
    for pair, place, frequency in _real_places(height, width):
        gathered[:, frequency, ..., 0] = blocks[:, pair, place, :, place]
    return torch.view_as_complex(gathered)


class _ToBlocks(torch.autograd.Function):
    """`_to_blocks`, with a derivative in one pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(response: Tensor, height: int, width: int) -> Tensor:
        return _to_blocks(response, height, width)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        ctx.size = inputs[1:]

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        return _OfBlocks.apply(gradient, *ctx.size), None, None


class _OfBlocks(torch.autograd.Function):
    """`_of_blocks`, whose derivative is `_to_blocks`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(blocks: Tensor, height: int, width: int) -> Tensor:
        return _of_blocks(blocks, height, width)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        ctx.size = inputs[1:]

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        return _ToBlocks.apply(gradient, *ctx.size), None, None


@register_notrace_function
def block_form(spectrum: Tensor, height: int, width: int) -> Tensor:
    """A response on the half plane, complex (H // 2 + 1, W, q, p) flattened to (.., q, p), as real (F, 2q, 2p)."""
    return phase_blocks(spectrum[None, :, :, None], height, width)


@register_notrace_function
def phase_blocks(phases: Tensor, height: int, width: int) -> Tensor:
    """Responses to L phases of columns by K phases of rows, (L, .., q, K, p), as L block forms: real (L F, 2q, 2 K p).

    The channels come in the order (row's phase, channel).
    """
    if torch.jit.is_scripting() or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        blocks = _to_blocks(phases, height, width)
    else:
        blocks = _ToBlocks.apply(phases, height, width)
    many, pairs, _, rows, _, inner, columns = blocks.shape
    return blocks.reshape(many * pairs, 2 * rows, 2 * inner * columns)
