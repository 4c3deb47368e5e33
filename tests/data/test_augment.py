"""PadCropFlip against an obvious loop over images."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.data import PadCropFlip
from timm_lipschitz.errors import InvalidInputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int, shape: tuple[int, int, int], dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    images = torch.from_numpy(np.random.default_rng(1).integers(1, 256, (count, *shape), dtype=np.uint8))
    return images if dtype == torch.uint8 else images.to(dtype) / 255


def one_by_one(images: torch.Tensor, padding: int, flip: bool, seed: int) -> torch.Tensor:
    """Pads, crops and mirrors each image by itself, with the same draws."""
    count, _, height, width = images.shape
    draws = generator(seed)
    (tops, lefts), mirrored = (
        torch.randint(0, 2 * padding + 1, (2, count, 1), generator=draws).squeeze(2).tolist(),
        torch.randint(0, 2, (count, 1), generator=draws).flatten().tolist(),
    )
    results = []
    for image, top, left, mirror in zip(images, tops, lefts, mirrored, strict=True):
        padded = torch.nn.functional.pad(image, (padding,) * 4)
        crop = padded[:, top : top + height, left : left + width]
        results.append(crop.flip(2) if flip and mirror else crop)
    return torch.stack(results)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    padding=st.integers(0, 5),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.float64]),
)
def test_against_a_loop(count, shape, padding, flip, seed, dtype):
    images = batch(count, shape, dtype)
    before = images.clone()
    result = PadCropFlip(padding, flip)(images, generator(seed))
    assert result.dtype == dtype
    assert torch.equal(result, one_by_one(images, padding, flip, seed))
    assert torch.equal(images, before)


def test_images_move_independently_and_everywhere():
    """A single bright pixel in the middle: where it lands shows shift and flip."""
    images = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 3] = 1  # left of the middle
    result = PadCropFlip(padding=2, flip=True)(images, generator())
    assert result.flatten(1).sum(1).eq(1).all()
    places = result.nonzero()[:, 2:]
    seen, counts = places.unique(dim=0, return_counts=True)
    # unflipped columns 1..5, flipped 3..7, rows 2..6
    assert sorted(map(tuple, seen.tolist())) == [(row, column) for row in range(2, 7) for column in range(1, 8)]
    expected = 4000 / 50 * torch.tensor([1, 1, 2, 2, 2, 1, 1] * 5)
    assert ((counts - expected).abs() < 6 * expected.sqrt()).all()


def test_crops_do_not_depend_on_flip():
    images = batch(50, (1, 6, 6))
    plain, flipped = (PadCropFlip(2, flip)(images, generator(3)) for flip in (False, True))
    for one, other in zip(plain, flipped, strict=True):
        assert torch.equal(one, other) or one.shape == other.shape
    same = [torch.equal(one, other) for one, other in zip(plain, flipped, strict=True)]
    assert 10 < sum(same) < 40


def test_the_generator_decides():
    images = batch(20, (1, 6, 6))
    augment = PadCropFlip(2)
    assert torch.equal(augment(images, generator(1)), augment(images, generator(1)))
    assert not torch.equal(augment(images, generator(1)), augment(images, generator(2)))
    state = torch.get_rng_state()
    augment(images, generator(1))
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone


def test_uint8_and_float_agree():
    images = batch(20, (3, 6, 7))
    augmented = PadCropFlip(3)(images, generator(1))
    assert torch.equal(PadCropFlip(3)(images.float(), generator(1)), augmented.float())


def test_nothing_to_do():
    images = batch(3, (1, 4, 4))
    assert PadCropFlip(0, flip=False)(images, generator()) is images


@pytest.mark.parametrize("padding", [-1, 1.5, True, "4"])
def test_impossible_padding(padding):
    with pytest.raises(InvalidInputError, match=r"padding must be an integer >= 0"):
        PadCropFlip(padding)


def test_not_a_batch():
    with pytest.raises(InvalidInputError, match=r"got \(3, 4, 4\)"):
        PadCropFlip()(torch.zeros(3, 4, 4), generator())


@pytest.mark.cuda
@pytest.mark.cuda
def test_same_crops_on_gpu():
    images = batch(20, (3, 6, 7))
    result = PadCropFlip(3)(images.cuda(), generator(1))
    assert result.is_cuda
    assert torch.equal(result.cpu(), PadCropFlip(3)(images, generator(1)))
