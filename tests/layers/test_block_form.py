"""Responses as real matrices, against the definition, one frequency at a time, and their derivatives."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from timm_lipschitz.layers.block_form import block_form, phase_blocks

SIZES = [(4, 6), (6, 4), (5, 4), (4, 5), (5, 7), (2, 2), (1, 1), (1, 4), (4, 1), (2, 3)]


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128)


def pairs(height: int, width: int) -> list[tuple[tuple[int, int], tuple[int, int] | None]]:
    """In order, each pair's frequency (u, v), and that of its second coefficient where it is two real ones."""
    if height % 2 == 1:
        return [((u, v), None) for u in range(height // 2 + 1) for v in range(width)]
    found: list[tuple[tuple[int, int], tuple[int, int] | None]] = []
    for u in (0, height // 2):
        if width % 2 == 0:
            found.append(((u, 0), (u, width // 2)))
        elif u == 0:
            found.append(((0, 0), (height // 2, 0)))
        found += [((u, v), None) for v in range(1, (width + 1) // 2)]
    return found + [((u, v), None) for u in range(1, height // 2) for v in range(width)]


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_those_of_their_pairs(size: tuple[int, int]) -> None:
    height, width = size
    response = randn((height // 2 + 1) * width, 3, 2)
    found = block_form(response, height, width)
    expected = []
    for (u, v), second in pairs(height, width):
        c, d = response[u * width + v].real, response[u * width + v].imag
        if second is None:
            block = torch.cat([torch.cat([c, -d], dim=1), torch.cat([d, c], dim=1)])
        else:
            block = torch.block_diag(c, response[second[0] * width + second[1]].real)
        expected.append(block)
    assert torch.equal(found, torch.stack(expected))


@pytest.mark.parametrize("size", SIZES)
def test_phases_are_blocks_side_by_side(size: tuple[int, int]) -> None:
    count = (size[0] // 2 + 1) * size[1]
    phases = randn(2, count, 3, 2, 2)
    found = phase_blocks(phases, *size)
    assert torch.equal(found, torch.cat([block_form(phase.flatten(2), *size) for phase in phases]))


@pytest.mark.parametrize("size", [(4, 6), (4, 5), (5, 4), (2, 2)])
def test_derivatives(size: tuple[int, int]) -> None:
    phases = randn(2, (size[0] // 2 + 1) * size[1], 1, 2, 1).requires_grad_()
    assert gradcheck(lambda x: phase_blocks(x, *size), phases)
    assert gradgradcheck(lambda x: phase_blocks(x, *size).square(), phases)


@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_without_gradients_and_of_a_conjugate(size: tuple[int, int]) -> None:
    response = randn((size[0] // 2 + 1) * size[1], 2, 3)
    tracked = response.clone().requires_grad_()
    with torch.no_grad():
        free = block_form(response, *size)
    assert torch.equal(block_form(tracked, *size), free)
    assert torch.equal(block_form(response.mH, *size), free.mT)


def test_each_of_several_responses_by_vmap() -> None:
    responses = randn(3, 12, 2, 2)
    together = torch.func.vmap(lambda x: block_form(x, 4, 4))(responses)
    assert torch.equal(together, torch.stack([block_form(x, 4, 4) for x in responses]))
