"""Side by side or one after another: the authors' classes give the same points either way."""

import pytest
import torch
from attacks.tiny_models import Mlp, grey_images, predicted
from pyautoattack.autopgd_base import APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack

from timm_lipschitz.attacks._side_by_side import perturb_apgd_targeted, perturb_fab_targeted
from timm_lipschitz.attacks._square_search import perturb_square

SHAPE = (2, 10, 10)
EPS = {  # from an eps at which images stand to one at which all break
    ("apgd", "L2"): (0.02, 0.05, 0.5),
    ("fab", "L2"): (0.02, 0.05, 0.5),
    ("square", "L2"): (0.02, 0.05, 0.25),
    ("apgd", "Linf"): (0.001, 0.004, 0.05),
    ("fab", "Linf"): (0.001, 0.004, 0.05),
    ("square", "Linf"): (0.002, 0.004, 0.05),
}


def apgd(model, norm, eps):
    return APGDAttack_targeted(model, norm=norm, eps=eps, n_iter=15, n_target_classes=5, seed=3, device="cpu")


def fab(model, norm, eps):
    return FABAttack_PT(
        model, norm=norm, eps=eps, n_iter=8, targeted=True, n_target_classes=5, seed=3, device=torch.device("cpu")
    )


def square(model, norm, eps):
    return SquareAttack(model, norm=norm, eps=eps, n_queries=320, p_init=0.8, seed=3, device="cpu", resc_schedule=False)


class Counting(torch.nn.Module):
    """Counts forwards, and clones logits as the loop's guard does."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, images):
        self.calls += 1
        return self.model(images).clone()


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize(
    ("build", "at_once"),
    [(apgd, perturb_apgd_targeted), (fab, perturb_fab_targeted), (square, perturb_square)],
    ids=["apgd-t", "fab-t", "square"],
)
def test_the_same_points_in_fewer_forwards(build, at_once, norm, count):
    model = Counting(Mlp(7, SHAPE)).eval().requires_grad_(False)
    broken, calls = [], [0, 0]
    for eps in EPS[build.__name__, norm]:
        images = grey_images(count, SHAPE, seed=4)
        labels = predicted(model, images)
        model.calls = 0
        with torch.no_grad():
            theirs = build(model, norm, eps).perturb(images.clone(), labels.clone())
        calls[0], model.calls = calls[0] + model.calls, 0
        with torch.no_grad():
            ours = at_once(build(model, norm, eps), images.clone(), labels.clone(), 40)
        calls[1] += model.calls
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
        verdicts = model(theirs).argmax(1) != labels
        assert torch.equal(model(ours).argmax(1) != labels, verdicts)
        broken.append(int(verdicts.sum()))
    assert broken[0] < broken[-1] == count
    assert 2 * calls[1] < calls[0]


@pytest.mark.parametrize("build_at_once", [(apgd, perturb_apgd_targeted), (fab, perturb_fab_targeted)])
def test_images_that_break_at_different_targets(build_at_once):
    """Each target's noise depends on how many images stand: after a break, what ran ahead is run again."""
    build, at_once = build_at_once
    model = Mlp(7, SHAPE, seed=1).eval().requires_grad_(False)
    images = grey_images(12, SHAPE, seed=9)
    labels = predicted(model, images)
    with torch.no_grad():
        theirs = build(model, "L2", 0.06).perturb(images.clone(), labels.clone())
        ours = at_once(build(model, "L2", 0.06), images.clone(), labels.clone(), 64)
    assert 0 < int((model(theirs).argmax(1) != labels).sum()) < 12
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
