"""The sizes on which Square is said to fail are those on which the libraries fail."""

import pytest
import torch
import torchattacks
from attacks.tiny_models import Linear, grey_images, predicted
from pyautoattack.square import SquareAttack

from timm_lipschitz.attacks import Problem, run_attack
from timm_lipschitz.attacks._square import square_obstacle
from timm_lipschitz.errors import AttackError
from timm_lipschitz.threat_model import ThreatModel

SIZES = [(n, n) for n in (3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 20, 24, 28, 32)]
SIZES += [(4, 28), (28, 4), (6, 12), (12, 6), (28, 12), (20, 30), (10, 33), (32, 30)]
LIBRARY_NORM = {"l1": "L1", "l2": "L2", "linf": "Linf"}


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_authors_code_fails_exactly_where_said(norm):
    for height, width in SIZES:
        model = Linear(3, (1, height, width)).requires_grad_(False)
        images = grey_images(1, (1, height, width))
        attack = SquareAttack(model, norm=LIBRARY_NORM[norm], eps=0.01, n_queries=2, device="cpu", resc_schedule=False)
        try:
            attack.perturb(images, predicted(model, images))
        except (RuntimeError, ZeroDivisionError):
            ran = False
        else:
            ran = True
        assert ran == (square_obstacle(norm, height, width) is None), (height, width)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_torchattacks_runs_or_is_refused(norm, few_steps):
    refused = []
    for height, width in SIZES:
        model = Linear(3, (1, height, width))
        images = grey_images(1, (1, height, width))
        try:
            run_attack(model, images, predicted(model, images), ThreatModel.parse(f"{norm}:0.01"), "square", seed=0)
        except AttackError:
            refused.append((height, width))
    assert (4, 28) in refused
    assert ((4, 4) in refused) == (norm == "l2")
    assert not {(28, 28), (32, 32), (5, 5), (6, 6)} & set(refused)


def test_torchattacks_does_not_cap_its_window():
    """Why a rectangle is refused: the window of the search may stick out of the image."""
    shape = (1, 6, 28)
    model = Linear(3, shape)
    images = grey_images(1, shape)
    attack = torchattacks.Square(model, norm="L2", eps=0.01, n_queries=3)
    with pytest.raises(RuntimeError), torch.no_grad():
        attack(images, predicted(model, images))
    with pytest.raises(AttackError, match="larger than 6x28"):
        run_attack(model, images, predicted(model, images), ThreatModel.parse("l2:0.01"), "square", seed=0)


def test_problem_names_the_size():
    assert square_obstacle("l2", 24, 24) == "Square's tiles of 4 pixels do not fit into 24x24 images for l2"
    assert Problem(ThreatModel.parse("l2:1"), 3, (1, 24, 24)).image_shape == (1, 24, 24)
