"""Sets of attacks, and what is not offered."""

import pytest
import torchattacks
from attacks.tiny_models import THREE_CHANNELS, Linear, grey_images, predicted, shape_for

from timm_lipschitz.attacks import (
    ATTACK_SETS,
    CATALOGUE,
    Problem,
    attack_names,
    expand_sets,
    find_attack,
    longest_costs,
    run_attack,
)
from timm_lipschitz.errors import AttackError
from timm_lipschitz.evaluation.plan import make_plan
from timm_lipschitz.threat_model import NORMS, ThreatModel

PROBLEM = Problem(ThreatModel.parse("l2:1"), 5, (1, 8, 8))


def test_sets_hold_attacks_of_their_norm():
    for name, attacks in ATTACK_SETS.items():
        norm = name.partition("-")[0]
        for attack in attacks:
            assert find_attack(attack, norm).name == attack


def test_sets_expand_once_and_in_order():
    assert expand_sets(["cw", "l2-quick", "cw", "apgd"], {"l2"}) == ("cw", "pgdl2", "apgd")
    assert expand_sets(["all"], {"linf"}) == attack_names("linf")
    both = ("autoattack", "bisection", "apgd", "apgdt", "square", "fab")
    l0 = ("onepixel", "pixle", "sparsefool", "jsma")
    assert expand_sets(["all"], {"l2", "linf"}) == (*both, *l0, "torchattacks-autoattack-10step")
    assert expand_sets(["minimal-norm"], {"l2"}) == ("bisection", "fab", "cw", "deepfool", "eaden")
    assert expand_sets(["cw", "minimal-norm"], {"l2", "linf"}) == ("cw", "bisection", "fab")
    assert expand_sets(["cw", "cw"], {"l2"}) == ("cw", "cw")  # refused later: given twice


def test_a_plan_takes_sets():
    plan = make_plan(["l2:1"], ["l2-quick", "cw"])
    assert plan.attacks == ("pgdl2", "apgd", "cw")
    with pytest.raises(AttackError, match="'pgdl2' is for l2, not linf"):
        make_plan(["linf:0.1"], ["l2-quick"])


@pytest.mark.parametrize("name", ["autoattack-plus", "autoattack-rand", "pgdrs", "gn", "multiattack", "lgv"])
def test_what_makes_no_sense_is_refused_with_a_reason(name):
    with pytest.raises(AttackError, match=f"{name} is not offered: "):
        find_attack(name, "l2")


def test_every_class_of_the_library_is_offered_or_refused_with_a_reason():
    refused = {"pgdrs", "pgdrsl2", "vanila", "gn", "multiattack", "lgv"}
    assert {name.lower() for name in torchattacks.__all__} - set(CATALOGUE) == refused
    assert CATALOGUE["autoattack"].build(PROBLEM).library != "torchattacks"
    ten = CATALOGUE["torchattacks-autoattack-10step"].build(PROBLEM)
    assert (ten.library, ten.sub_attacks[0].settings["steps"]) == ("torchattacks", 10)


@pytest.mark.parametrize(("norm", "name"), [(norm, name) for norm in NORMS for name in attack_names(norm)])
def test_no_attack_takes_longer_than_its_settings_say(norm, name, few_steps):
    """Forwards at an eps at which every image stands, where minimal-norm attacks search all the same."""
    shape = shape_for(name)
    model, images = Linear(5, shape), grey_images(3, shape)
    threat_model = ThreatModel.parse(f"{norm}:0.001")
    plan = CATALOGUE[name].build(Problem(threat_model, 5, shape))
    most = sum(cost.forwards * (1 if cost.at_once is None else len(images)) for cost in longest_costs(plan))
    result = run_attack(model, images, predicted(model, images), threat_model, name, seed=0)
    assert 0 < result.forwards <= most


def test_jsma_and_pixle_say_which_images_they_cannot_take():
    for name, shape, reason in (
        ("jsma", (3, 64, 64), "at most 4096 fit into memory"),
        ("pixle", (1, 6, 8), "must be square, not 6x8"),
    ):
        problem = Problem(ThreatModel.parse("l2:1"), 5, shape)
        with pytest.raises(AttackError, match=reason):
            CATALOGUE[name].build(problem)


@pytest.mark.parametrize("name", THREE_CHANNELS)
def test_attacks_for_three_channels(name, few_steps):
    threat_model = ThreatModel.parse("linf:0.2")
    for channels in (3, 1):
        shape = (channels, 16, 16)
        model, images = Linear(5, shape), grey_images(2, shape)
        labels = predicted(model, images)
        if channels == 3:
            assert run_attack(model, images, labels, threat_model, name, seed=0).success.any()
        else:
            with pytest.raises(AttackError, match=f"{name} smooths gradients by kernels for 3 channels"):
                run_attack(model, images, labels, threat_model, name, seed=0)
