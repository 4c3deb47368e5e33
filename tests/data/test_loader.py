"""BatchLoader: what is seen, in which order, on which rank."""

from itertools import chain, zip_longest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_lipschitz.data import BatchLoader, ImageDataset, PadCropFlip
from timm_lipschitz.errors import InvalidInputError


def make(count: int) -> ImageDataset:
    """Image i is constant, with pixel value i (so that a batch shows what was seen)."""
    assert count <= 256
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 4, 4).contiguous()
    return ImageDataset("toy", "train", images, torch.arange(count) % 7, tuple("abcdefg"))


def seen(batches) -> list[list[int]]:
    """Image numbers of each batch; checks that images and labels belong together."""
    result = []
    for images, labels in batches:
        numbers = (images[:, 0, 0, 0].double() * 255).round().long()
        assert torch.equal(numbers % 7, labels)
        assert labels.dtype == torch.int64
        result.append(numbers.tolist())
    return result


def flat(batches) -> list[int]:
    return list(chain.from_iterable(seen(batches)))


def test_in_order():
    loader = BatchLoader(make(7), 3)
    assert seen(loader) == [[0, 1, 2], [3, 4, 5], [6]]  # the last batch has one image
    assert seen(loader) == seen(loader.epoch(5))
    assert len(loader) == 3
    assert seen(BatchLoader(make(7), 3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert seen(BatchLoader(make(2), 3)) == [[0, 1]]
    assert seen(BatchLoader(make(1), 1)) == [[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels(dtype):
    dataset = make(256)
    images, labels = next(iter(BatchLoader(dataset, 256, dtype=dtype)))
    assert torch.equal(images, dataset.pixels(slice(None), dtype=dtype))
    assert images.dtype == dtype
    assert torch.equal(labels, dataset.labels)


def test_shuffled_epochs():
    dataset = make(100)
    loader = BatchLoader(dataset, 8, shuffle=True, seed=3)
    epochs = [flat(loader.epoch(number)) for number in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(100))
        assert epoch != sorted(epoch)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert flat(BatchLoader(dataset, 8, shuffle=True, seed=4).epoch(0)) != epochs[0]
    assert flat(BatchLoader(dataset, 8, shuffle=True, seed=3).epoch(2)) == epochs[2]  # resumed


def test_augmented_epochs_resume():
    def epoch(number: int, seed: int = 0) -> torch.Tensor:
        loader = BatchLoader(make(50), 8, shuffle=True, seed=seed, augment=PadCropFlip(2))
        return torch.cat([images for images, _ in loader.epoch(number)])

    straight = BatchLoader(make(50), 8, shuffle=True, augment=PadCropFlip(2))
    for number in range(3):
        assert torch.equal(torch.cat([images for images, _ in straight.epoch(number)]), epoch(number))


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    list(BatchLoader(make(50), 8, shuffle=True, augment=PadCropFlip(2)).epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_epochs_at_once():
    loader = BatchLoader(make(20), 8, shuffle=True, augment=PadCropFlip(1))
    alone = [images for images, _ in loader.epoch(0)]
    for (images, _), _, expected in zip(loader.epoch(0), loader.epoch(1), alone, strict=True):
        assert torch.equal(images, expected)


def test_augmentation_sees_uint8_and_may_return_pixels():
    def halve(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        assert images.dtype == torch.uint8
        return images.double() / 510

    images, _ = next(BatchLoader(make(10), 10, augment=halve).epoch(0))
    assert images.dtype == torch.float32
    assert torch.equal(images, (make(10).images.double() / 510).float())


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(4, 30),
    world_size=st.integers(1, 4),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_shards_partition_the_whole(count, batch_size, world_size, shuffle, epoch):
    dataset = make(count)

    def shard(rank: int, **options: bool) -> BatchLoader:
        return BatchLoader(dataset, batch_size, shuffle, seed=1, rank=rank, world_size=world_size, **options)

    whole = seen(BatchLoader(dataset, batch_size, shuffle, seed=1).epoch(epoch))
    shards = [seen(shard(rank).epoch(epoch)) for rank in range(world_size)]
    assert [len(batches) for batches in shards] == [len(shard(rank)) for rank in range(world_size)]
    for batch, *parts in zip_longest(whole, *shards, fillvalue=[]):
        assert list(chain(*parts)) == batch
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    assert all(batch for batches in shards for batch in batches)

    full = count // batch_size
    if full:
        for rank in range(world_size):
            batches = seen(shard(rank, drop_last=True).epoch(epoch))
            assert batches == shards[rank][:full]
            assert len(shard(rank, drop_last=True)) == full


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_see_the_augmentation_of_one_process(world_size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 4, 4), generator=generator, dtype=torch.uint8)
    dataset = ImageDataset("toy", "train", images, torch.zeros(40, dtype=torch.int64), ("a",))

    def epoch(rank: int, world_size: int) -> list[torch.Tensor]:
        loader = BatchLoader(dataset, 8, True, augment=PadCropFlip(2), rank=rank, world_size=world_size)
        return [images for images, _ in loader.epoch(1)]

    shards = [epoch(rank, world_size) for rank in range(world_size)]
    for batch, *parts in zip(epoch(0, 1), *shards, strict=True):
        assert torch.equal(torch.cat(parts), batch)


def test_epochs_and_seeds_augment_differently():
    images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(40, 1, 4, 4).contiguous()
    dataset = ImageDataset("toy", "train", images, torch.zeros(40, dtype=torch.int64), ("a",))

    def augmented(epoch: int, seed: int) -> bytes:  # not shuffled: crops alone make the difference
        loader = BatchLoader(dataset, 5, seed=seed, augment=PadCropFlip(2))
        return torch.cat([images for images, _ in loader.epoch(epoch)]).numpy().tobytes()

    assert len({augmented(epoch, seed) for epoch in (0, 1) for seed in (0, 1)}) == 4


def test_iteration_needs_an_epoch_where_epochs_differ():
    for options in ({"shuffle": True}, {"augment": PadCropFlip()}):
        with pytest.raises(InvalidInputError, match=r"\.epoch\(n\)"):
            iter(BatchLoader(make(5), 2, **options))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be"),
        ({"batch_size": True}, "batch_size must be"),
        ({"world_size": 0}, "world_size must be"),
        ({"rank": -1}, "rank must be"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"batch_size": 6, "drop_last": True}, "drop_last leaves no batch: 5 images, batch_size 6"),
        ({"batch_size": 2, "world_size": 3}, "batch_size 2 on 3 ranks"),
    ],
)
def test_impossible_arguments(options, problem):
    with pytest.raises(InvalidInputError, match=problem):
        BatchLoader(make(5), **{"batch_size": 2, **options})


@pytest.mark.parametrize("number", [-1, 0.0, True])
def test_impossible_epoch(number):
    with pytest.raises(InvalidInputError, match="epoch must be"):
        BatchLoader(make(5), 2).epoch(number)  # at once, not when the first batch is asked for


@pytest.mark.cuda
@pytest.mark.cuda
def test_same_batches_wherever_the_images_live():
    def epoch(dataset: ImageDataset, device: str | None) -> torch.Tensor:
        loader = BatchLoader(dataset, 8, shuffle=True, augment=PadCropFlip(1), device=device)
        return torch.cat([images.cpu() for images, _ in loader.epoch(0)])

    expected = epoch(make(50), None)
    assert torch.equal(epoch(make(50), "cuda"), expected)
    assert torch.equal(epoch(make(50).to("cuda"), None), expected)
