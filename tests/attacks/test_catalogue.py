"""Sets of attacks, and what is not offered."""

import pytest
import torchattacks
from attacks.tiny_models import THREE_CHANNELS, Linear, grey_images, predicted

from timm_lipschitz.attacks import ATTACK_SETS, CATALOGUE, attack_names, expand_sets, find_attack, run_attack
from timm_lipschitz.errors import AttackError
from timm_lipschitz.evaluation.plan import make_plan
from timm_lipschitz.threat_model import ThreatModel


def test_sets_hold_attacks_of_their_norm():
    for name, attacks in ATTACK_SETS.items():
        norm = name.partition("-")[0]
        for attack in attacks:
            assert find_attack(attack, norm).name == attack


def test_sets_expand_once_and_in_order():
    assert expand_sets(["cw", "l2-quick", "cw", "apgd"], {"l2"}) == ("cw", "pgdl2", "apgd")
    assert expand_sets(["all"], {"linf"}) == attack_names("linf")
    assert expand_sets(["all"], {"l2", "linf"}) == ("autoattack", "apgd", "apgdt", "square", "fab")
    assert expand_sets(["cw", "cw"], {"l2"}) == ("cw", "cw")  # refused later: given twice


def test_a_plan_takes_sets():
    plan = make_plan(["l2:1"], ["l2-quick", "cw"])
    assert plan.attacks == ("pgdl2", "apgd", "cw")
    with pytest.raises(AttackError, match="'pgdl2' is for l2, not linf"):
        make_plan(["linf:0.1"], ["l2-quick"])


@pytest.mark.parametrize("name", ["autoattack-plus", "autoattack-rand", "pgdrs", "gn"])
def test_what_makes_no_sense_is_refused_with_a_reason(name):
    with pytest.raises(AttackError, match=f"{name} is not offered: "):
        find_attack(name, "l2")


def test_every_class_of_the_library_is_offered_or_accounted_for():
    """L0 attacks are not offered yet; the library's 10-step AutoAttack would pass for the real one."""
    offered = {row.name for row in CATALOGUE.values()}
    refused = {"pgdrs", "pgdrsl2", "vanila", "gn"}
    l0 = {"sparsefool", "onepixel", "pixle", "jsma"}
    wrappers = {"multiattack", "lgv", "autoattack"}
    assert {name.lower() for name in torchattacks.__all__} - offered - refused - l0 - wrappers == set()


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
