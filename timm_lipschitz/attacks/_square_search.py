"""Square Attack for few images: several of its next proposals in one batch.

Square (Andriushchenko et al. 2020, arXiv 1912.00049) is a random search: 5,000 times it proposes a changed square and
keeps it if the margin falls. Nearly all proposals are refused, and a refused proposal leaves the state as it was. So
the proposals that follow are known before the verdict on the first is: here a window of them is evaluated at once, up
to the first that an image accepts; those behind it are proposed again from the new state.

The search is the authors', proposal by proposal, up to the rounding of sums and of products in batches of another size:
positions, orientations and signs come from the generator in the order in which their loop draws them. For L2 that order
depends on the number of images that stand, so when an image breaks, the others are taken back to that iteration.

Legend: n images, c channels, h x w pixels, q proposals, r rows of a batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_BLOCK = 128  # iterations whose random numbers are drawn at once
_FIRST_WINDOW = 4


def perturb_square(attack: Any, images: Tensor, labels: Tensor, rows: int) -> Tensor:
    """``attack.perturb(images, labels)`` of a ``SquareAttack`` (L2 or L-infinity, margin loss, one restart).

    images (B, C, H, W) float32 and labels (B,) on the attack's device; at most ``rows`` rows in one batch, but at least
    one an image.
    """
    attack.init_hyperparam(images)
    standing = attack.predict(images).argmax(dim=1) == labels
    torch.random.manual_seed(attack.seed)
    torch.cuda.random.manual_seed(attack.seed)
    adversarial = images.clone()
    left = standing.nonzero().flatten()
    if len(left):
        search = (_L2Search if attack.norm == "L2" else _LinfSearch)(attack, images[left], labels[left], rows)
        found = search.run()
        broken = attack.predict(found).argmax(dim=1) != labels[left]
        adversarial[left[broken]] = found[broken]
    return adversarial


@dataclass
class _Image:
    """Where the search for one image stands. ``iteration`` is its next one; ``accepted`` its states in this block."""

    iteration: int
    accepted: list[tuple[int, Tensor, float]] = field(default_factory=list)  # (iteration behind it, point, margin)

    @property
    def point(self) -> Tensor:
        return self.accepted[-1][1]

    @property
    def margin(self) -> float:
        return self.accepted[-1][2]

    def back_to(self, iteration: int) -> None:
        """Forget what was done from ``iteration`` on."""
        self.iteration = min(self.iteration, iteration)
        while self.accepted[-1][0] > iteration:
            self.accepted.pop()

    def next_block(self) -> None:
        del self.accepted[:-1]


class _Search(ABC):
    """The search on images (n, c, h, w); subclasses draw the random numbers and build the proposals."""

    def __init__(self, attack: Any, images: Tensor, labels: Tensor, rows: int) -> None:
        self.attack, self.images, self.labels = attack, images, labels
        self.rows = max(rows, len(images))
        self.window = _FIRST_WINDOW
        self.channels, self.height, self.width = images.shape[1:]

    def run(self) -> Tensor:
        """The best points found (n, c, h, w)."""
        start = self.first_points().clamp(0, 1)
        margins = self.margins(start, torch.arange(len(start))).tolist()
        state = [_Image(0, [(0, point, margin)]) for point, margin in zip(start, margins, strict=True)]
        begin = 0
        if any(margin >= 0 for margin in margins):  # the authors stop at once only where all margins are negative
            while begin < self.attack.n_queries and (left := [i for i, one in enumerate(state) if one.margin > 0]):
                begin = self._block(state, left, begin)
        return torch.stack([one.point for one in state])

    def _block(self, state: list[_Image], left: list[int], begin: int) -> int:
        """Iterations from ``begin`` for the images ``left``, until one breaks or the block ends; returns where."""
        end = min(begin + _BLOCK, self.attack.n_queries)
        generator = torch.get_rng_state()
        self.draw(begin, end, left)
        for i in left:
            state[i].next_block()
            state[i].iteration = begin
        while active := [i for i in left if state[i].iteration < end and state[i].margin > 0]:
            broken = self._advance(state, active, end)
            if broken < end and self.noise_depends_on_images:
                end = broken
                for i in left:
                    state[i].back_to(end)
        if end < begin + _BLOCK:
            torch.set_rng_state(generator)
            self.skip(end - begin, len(left))
        return end

    def _advance(self, state: list[_Image], active: list[int], end: int) -> int:
        """One batch: each active image tries its next proposals up to the first it accepts.

        Returns the iteration behind the earliest at which an image broke, or ``end``.
        """
        window = max(1, min(self.window, self.rows // len(active)))
        pairs = [(i, t) for i in active for t in range(state[i].iteration, min(state[i].iteration + window, end))]
        owner = torch.tensor([active.index(i) for i, _ in pairs])
        index, iterations = torch.tensor([i for i, _ in pairs]), torch.tensor([t for _, t in pairs])
        best = torch.stack([state[i].point for i in active])[owner.to(self.images.device)]
        points = self.propose(best, index, iterations)
        margins = self.margins(points, index).tolist()
        broken_behind, refused, row = end, 0, 0
        for i in active:
            first = state[i].iteration
            count = min(window, end - first)
            for turn in range(count):
                margin = margins[row + turn]
                if margin < state[i].margin or margin <= 0:
                    state[i].accepted.append((first + turn + 1, points[row + turn], margin))
                    state[i].iteration = first + turn + 1
                    if margin <= 0:
                        broken_behind = min(broken_behind, first + turn + 1)
                    break
            else:
                state[i].iteration = first + count
                refused += 1
            row += count
        self.window = window * 2 if 2 * refused > len(active) else max(_FIRST_WINDOW, window // 2)
        return broken_behind

    def margins(self, points: Tensor, index: Tensor) -> Tensor:
        """Logit of the label minus the largest other one, (r,), for points of the images ``index`` (r,)."""
        labels = self.labels[index.to(self.labels.device)]
        return self.attack.margin_and_loss(points, labels)[0].cpu()

    def side(self, iteration: int) -> int:
        """Side of the square at an iteration, before it is cut to the image."""
        pixels = self.channels * self.height * self.width
        return round(math.sqrt(self.attack.p_selection(iteration) * pixels / self.channels))

    noise_depends_on_images = False

    @abstractmethod
    def first_points(self) -> Tensor:
        """Where the search starts, (n, c, h, w)."""

    @abstractmethod
    def draw(self, begin: int, end: int, left: list[int]) -> None:
        """Take the random numbers of iterations ``begin`` to ``end`` for the images ``left`` from the generator."""

    @abstractmethod
    def skip(self, iterations: int, images: int) -> None:
        """Take those of so many iterations, for so many images, and leave them."""

    @abstractmethod
    def propose(self, best: Tensor, index: Tensor, iterations: Tensor) -> Tensor:
        """Proposals (r, c, h, w) at ``iterations`` (r,) for the images ``index`` (r,) whose points are ``best``."""

    def corner(self, uniform: Tensor, sides: Tensor, length: int) -> Tensor:
        """First row or column of squares, as the authors round it: (t,) uniform numbers -> (t,) int64."""
        return ((length - sides) * uniform).long()

    def inside(self, first: Tensor, sides: Tensor, length: int) -> Tensor:
        """(t,) corners -> (t, length) bool: rows or columns that a square covers."""
        position = torch.arange(length)
        return (position >= first[:, None]) & (position < (first + sides)[:, None])


class _LinfSearch(_Search):
    def first_points(self) -> Tensor:
        shape = [len(self.images), self.channels, 1, self.width]
        return self.images + self.attack.eps * self.attack.random_choice(shape)

    def skip(self, iterations: int, images: int) -> None:
        torch.rand(iterations, 2 + self.channels)

    def draw(self, begin: int, end: int, left: list[int]) -> None:
        numbers = torch.rand(end - begin, 2 + self.channels)
        sides = torch.tensor([min(max(self.side(t), 1), self.height, self.width) for t in range(begin, end)])
        rows = self.inside(self.corner(numbers[:, 0], sides, self.height), sides, self.height)
        columns = self.inside(self.corner(numbers[:, 1], sides, self.width), sides, self.width)
        square = (rows[:, :, None] & columns[:, None, :])[:, None]  # (t, 1, h, w)
        sign = torch.sign(2 * numbers[:, 2:] - 1)[:, :, None, None]  # (t, c, 1, 1)
        self.begin, self.steps = begin, (square * sign * (2.0 * self.attack.eps)).to(self.images.device)

    def propose(self, best: Tensor, index: Tensor, iterations: Tensor) -> Tensor:
        images = self.images[index.to(self.images.device)]
        moved = best + self.steps[(iterations - self.begin).to(best.device)]
        return torch.min(torch.max(moved, images - self.attack.eps), images + self.attack.eps).clamp(0, 1)


class _L2Search(_Search):
    noise_depends_on_images = True

    def __init__(self, attack: Any, images: Tensor, labels: Tensor, rows: int) -> None:
        super().__init__(attack, images, labels, rows)
        self.bumps: dict[int, Tensor] = {}

    def first_points(self) -> Tensor:
        side = self.height // 5
        margin = (self.height - side * 5) // 2
        delta = torch.zeros_like(self.images)
        for row in range(self.height // side):
            for column in range(self.width // side):
                top, start = margin + row * side, margin + column * side
                bump = self.bump(side, upright=not bool(torch.rand([1]) > 0.5))
                sign = self.attack.random_choice([len(self.images), self.channels, 1, 1])
                delta[:, :, top : top + side, start : start + side] += bump.to(delta.device) * sign
        return self.images + self.attack.normalize(delta) * self.attack.eps

    def bump(self, side: int, upright: bool) -> Tensor:
        """The authors' perturbation of a square (s, s) on the CPU, before its sign; ``upright`` or transposed."""
        if side not in self.bumps:
            state = torch.get_rng_state()
            made = self.attack.eta(side).cpu()
            torch.set_rng_state(state)
            self.bumps[side] = made.T if bool(torch.rand([1]) > 0.5) else made  # their draw, again
            torch.set_rng_state(state)
        return self.bumps[side] if upright else self.bumps[side].T

    def skip(self, iterations: int, images: int) -> None:
        torch.rand(iterations, 5 + images * self.channels)

    def draw(self, begin: int, end: int, left: list[int]) -> None:
        count = end - begin
        numbers = torch.rand(count, 5 + len(left) * self.channels)
        sides = torch.tensor([self._side(t) for t in range(begin, end)])
        lengths = (self.height, self.width, self.height, self.width)
        covered = [
            self.inside(self.corner(numbers[:, axis], sides, length), sides, length)
            for axis, length in enumerate(lengths)
        ]
        device = self.images.device
        self.begin = begin
        self.new = (covered[0][:, :, None] & covered[1][:, None, :])[:, None].to(device)  # (t, 1, h, w)
        self.old = (covered[2][:, :, None] & covered[3][:, None, :])[:, None].to(device)
        shapes = torch.zeros(count, self.height, self.width)
        for t, side in enumerate(sides.tolist()):
            shapes[t][self.new[t, 0].cpu()] = self.bump(side, upright=not bool(numbers[t, 4] > 0.5)).flatten()
        self.shapes = shapes[:, None].to(device)
        signs = torch.sign(2 * numbers[:, 5:] - 1).view(count, len(left), self.channels, 1, 1)
        self.signs = torch.zeros(count, len(self.images), self.channels, 1, 1)
        self.signs[:, left] = signs
        self.signs = self.signs.to(device)

    def _side(self, iteration: int) -> int:
        side = max(self.side(iteration), 3)
        return min(side + (side % 2 == 0), self.height, self.width)

    def propose(self, best: Tensor, index: Tensor, iterations: Tensor) -> Tensor:
        device = best.device
        turn, index = (iterations - self.begin).to(device), index.to(device)
        images, new, old = self.images[index], self.new[turn], self.old[turn]
        delta = best - images
        square = delta.square()
        window = (square * new).sum(dim=(-2, -1), keepdim=True).sqrt()  # (r, c, 1, 1)
        both = (square * (new | old)).sum(dim=(-2, -1), keepdim=True).sqrt()
        whole = square.flatten(1).sum(dim=1).view(-1, 1, 1, 1)
        change = self.shapes[turn] * self.signs[turn, index] + delta * new / (1e-12 + window)
        change = change / (1e-12 + change.square().sum(dim=(-2, -1), keepdim=True).sqrt())
        budget = ((self.attack.eps**2 - whole).clamp_min(0) / self.channels + both.square()).sqrt()
        delta = torch.where(new, change * budget, delta * ~old)
        return (images + self.attack.normalize(delta) * self.attack.eps).clamp(0, 1)
