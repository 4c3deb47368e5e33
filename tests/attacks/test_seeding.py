"""Seeds are functions of their parts, and results of the seed."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from attacks.tiny_models import Mlp, grey_images, predicted, shape_for
from hypothesis import given
from hypothesis import strategies as st

from timm_lipschitz.attacks import attack_names, run_attack, stable_seed
from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.threat_model import ThreatModel

parts = st.lists(st.one_of(st.text(max_size=5), st.integers(0, 99), st.fractions()), max_size=3)


def test_stable_seed_never_changes():
    assert stable_seed(0, ThreatModel.parse("l2:1"), "autoattack", 3) == 6877108748708388033


@given(parts, parts)
def test_different_parts_give_different_seeds(one, other):
    same = [(type(p), p) for p in one] == [(type(p), p) for p in other]
    assert (stable_seed(*one) == stable_seed(*other)) == same


@given(parts)
def test_seed_fits_torch(one):
    assert 0 <= stable_seed(*one) < 2**63
    torch.Generator().manual_seed(stable_seed(*one))


@pytest.mark.parametrize("part", [0.5, True, None, ("a",), np.int64(1)])
def test_refuses_parts_without_a_fixed_text(part):
    with pytest.raises(InvalidInputError, match="stable_seed got"):
        stable_seed(part)


def test_fraction_is_not_its_text():
    assert stable_seed(Fraction(1, 2)) != stable_seed("1/2")


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, True, None])
def test_refused_seeds(seed):
    model, images = Mlp(3), grey_images(1)
    with pytest.raises(InvalidInputError, match="seed is"):
        run_attack(model, images, predicted(model, images), ThreatModel.parse("l2:1"), "pgdl2", seed=seed)


@pytest.mark.parametrize(("norm", "name"), [(norm, name) for norm in ("l2", "linf") for name in attack_names(norm)])
def test_result_depends_on_the_seed_alone(norm, name, few_steps):
    model, images = Mlp(10, shape_for(name)), grey_images(4, shape_for(name))
    labels = predicted(model, images)
    threat_model = ThreatModel.parse(f"{norm}:{0.4 if norm == 'l2' else 0.1}")
    torch.manual_seed(1)
    first = run_attack(model, images, labels, threat_model, name, seed=2**40 + 5)
    torch.manual_seed(2)
    np.random.seed(3)
    second = run_attack(model, images, labels, threat_model, name, seed=2**40 + 5)
    assert torch.equal(first.adversarial, second.adversarial)
    assert torch.equal(first.distance.nan_to_num(-1), second.distance.nan_to_num(-1))


def test_every_batch_starts_from_the_seed(few_steps):
    model, images = Mlp(10), grey_images(3)
    labels = predicted(model, images)
    twice = run_attack(
        model, images.repeat(2, 1, 1, 1), labels.repeat(2), ThreatModel.parse("l2:0.6"), "pgdl2", seed=4, batch_size=3
    )
    assert torch.equal(twice.adversarial[:3], twice.adversarial[3:])
    assert twice.success.any()


@pytest.mark.parametrize(
    ("text", "name"),
    [("l2:0.6", "autoattack"), ("l2:0.6", "pgdl2"), ("l2:0.6", "apgd"), ("l2:0.6", "apgdt"), ("linf:0.2", "square")],
)
def test_another_seed_gives_another_point(text, name, few_steps):
    model, images = Mlp(10), grey_images(4)
    labels = predicted(model, images)
    one, other = (run_attack(model, images, labels, ThreatModel.parse(text), name, seed=seed) for seed in (0, 1))
    assert one.success.any()
    assert not torch.equal(one.adversarial, other.adversarial)
