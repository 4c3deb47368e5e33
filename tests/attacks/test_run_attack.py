"""What run_attack promises whatever the attack: who is attacked, batches, progress, settings."""

import json

import pytest
import torch
from attacks.faulty import fake_attack
from attacks.tiny_models import THREE_CHANNELS, Linear, Mlp, grey_images, predicted

from timm_lipschitz.attacks import CATALOGUE, AttackResult, attack_names, run_attack
from timm_lipschitz.errors import AttackError, InvalidInputError
from timm_lipschitz.threat_model import NORMS, ThreatModel

L2 = ThreatModel.parse("l2:0.5")
# Three attacks are for images of three channels, see test_catalogue.
CASES = [(norm, name) for norm in NORMS for name in attack_names(norm) if name not in THREE_CHANNELS]


def setting(count=5, num_classes=10):
    model, images = Linear(num_classes), grey_images(count)
    return model, images, predicted(model, images)


@pytest.mark.parametrize(("norm", "name"), CASES)
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_every_attack_runs_with_few_classes_or_says_why_not(norm, name, num_classes, few_steps):
    model, images, labels = setting(3, num_classes)
    threat_model = ThreatModel.parse(f"{norm}:0.05")
    if name in ("apgdt", "torchattacks-autoattack-10step") and num_classes < 4:
        with pytest.raises(AttackError, match=f"{name} needs 4 classes"):
            run_attack(model, images, labels, threat_model, name, seed=0)
        return
    result = run_attack(model, images, labels, threat_model, name, seed=0)
    check(result, images)
    assert (result.attack, result.settings["kind"]) == (name, CATALOGUE[name].kind)
    assert json.loads(json.dumps(result.settings)) == result.settings


def check(result: AttackResult, images: torch.Tensor) -> None:
    count = len(images)
    assert (result.success.shape, result.success.dtype) == ((count,), torch.bool)
    assert (result.distance.shape, result.distance.dtype) == ((count,), torch.float64)
    assert (result.adversarial.shape, result.adversarial.dtype) == (images.shape, torch.float32)
    assert not result.adversarial.requires_grad


@pytest.mark.parametrize(("norm", "name"), CASES)
@pytest.mark.parametrize("count", [1, 5])
def test_one_image_alone_and_as_the_last_batch(norm, name, count, few_steps):
    model, images, labels = setting(count)
    check(run_attack(model, images, labels, ThreatModel.parse(f"{norm}:0.3"), name, seed=0, batch_size=4), images)


@pytest.mark.parametrize(("norm", "name"), CASES)
def test_no_images(norm, name):
    model = Linear(10)
    images, labels = torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.int64)
    result = run_attack(model, images, labels, ThreatModel.parse(f"{norm}:0.5"), name, seed=0)
    check(result, images)
    assert (result.corrected, result.discarded, result.settings["sub_attacks"]) == (0, 0, [])


def test_labels_without_images():
    with pytest.raises(InvalidInputError, match="2 labels for 0 images"):
        run_attack(Linear(3), torch.zeros(0, 1, 6, 6), torch.tensor([0, 1]), L2, seed=0)


@pytest.mark.parametrize("kind", ["fixed-eps", "minimal-norm"])
def test_misclassified_images_need_no_attack(kind):
    model, images, labels = setting()
    labels[1], labels[3] = (labels[1] + 1) % 10, (labels[3] + 1) % 10
    attacked = []

    def look(x, y):
        attacked.append(x.clone())
        return x

    result = run_attack(model, images, labels, L2, fake_attack(look, kind=kind), seed=0)
    assert torch.equal(torch.cat(attacked), images[[0, 2, 4]])
    assert result.success.tolist() == [False, True, False, True, False]
    assert result.distance.nan_to_num(-1).tolist() == [-1, 0, -1, 0, -1]
    assert torch.equal(result.adversarial, images)


def test_all_images_misclassified(few_steps):
    model, images, labels = setting()
    result = run_attack(model, images, (labels + 1) % 10, L2, seed=0)
    assert result.success.all()
    assert result.distance.tolist() == [0.0] * 5


@pytest.mark.parametrize("name", ["autoattack", "deepfool"])
def test_eps_zero_means_clean_accuracy(name):
    model, images, labels = setting()
    labels[2] = (labels[2] + 1) % 10

    result = run_attack(model, images, labels, ThreatModel.parse("l2:0"), name, seed=0)
    assert result.success.tolist() == [False, False, True, False, False]
    assert torch.equal(result.adversarial, images)


def test_later_sub_attacks_see_what_is_left():
    model, images, labels = setting()
    exact = model.smallest_perturbation(images, labels, "l2")
    median = float(exact.median())
    strong = run_attack(model, images, labels, ThreatModel.parse(f"l2:{median * 1.1:.6f}"), "deepfool", seed=0)
    assert strong.success.any()
    assert not strong.success.all()
    seen = []

    def second(x, y):
        seen.append(x.clone())
        return x

    result = run_attack(
        model, images, labels, strong.threat_model, fake_attack(lambda x, y: strong.adversarial, second), seed=0
    )
    assert torch.equal(result.success, strong.success)
    assert torch.equal(torch.cat(seen), images[~strong.success])


def test_batches_and_progress():
    model, images, labels = setting()
    calls, sizes = [], []

    def look(x, y):
        sizes.append(len(x))
        return x

    run_attack(
        model,
        images,
        labels,
        L2,
        fake_attack(look, look),
        seed=0,
        batch_size=2,
        progress=lambda *call: calls.append(call),
    )
    assert sizes == [2, 2, 1] * 2
    assert calls == [(done, 5, f"fake-{number}") for number in (0, 1) for done in (0, 2, 4, 5)]


def test_attack_that_writes_into_its_inputs():
    model, images, labels = setting()
    given_images, given_labels = images.clone(), labels.clone()

    def scribble(x, y):
        x.add_(0.05)
        y.add_(1)
        return x

    result = run_attack(model, images, labels, L2, fake_attack(scribble), seed=0)
    honest = run_attack(model, images, labels, L2, fake_attack(lambda x, y: x + 0.05), seed=0)
    assert torch.equal(result.success, honest.success)
    assert torch.equal(result.adversarial, honest.adversarial)
    assert torch.equal(images, given_images)
    assert torch.equal(labels, given_labels)
    assert result.adversarial.data_ptr() != images.data_ptr()


def test_settings_say_what_ran():
    model, images, labels = setting(1)
    result = run_attack(model, images, labels, L2, "pgdl2", seed=11)
    assert result.settings == {
        "attack": "pgdl2",
        "kind": "fixed-eps",
        "library": "torchattacks",
        "library_version": "3.5.1",
        "sub_attacks": [
            {"name": "pgdl2", "class": "PGDL2", "eps": 0.5, "alpha": 0.025, "steps": 50, "random_start": True}
        ],
        "notes": [],
        "batch_size": 250,
        "seed": 11,
    }


def test_unknown_attack_lists_the_choices():
    model, images, labels = setting()
    with pytest.raises(
        AttackError, match=r"unknown attack 'pgd-l2': choose from autoattack, bisection, pgdl2, .* for l2"
    ):
        run_attack(model, images, labels, L2, "pgd-l2", seed=0)


@pytest.mark.parametrize("attack", ["fgsm", CATALOGUE["fgsm"]])
def test_attack_for_another_norm_lists_the_choices(attack):
    model, images, labels = setting()
    with pytest.raises(AttackError, match="'fgsm' is for linf, not l2: choose from autoattack, bisection, pgdl2"):
        run_attack(model, images, labels, L2, attack, seed=0)


def test_names_by_norm():
    l0 = {"onepixel", "pixle", "sparsefool", "jsma"}
    assert set(attack_names("l1")) == {"autoattack", "eadl1", "eaden", *l0}
    both = {"autoattack", "bisection", "apgd", "apgdt", "fab", "square", "torchattacks-autoattack-10step"}
    assert set(attack_names("l2")) == {"pgdl2", "cw", "deepfool", "eaden", *both, *l0}
    assert {"autoattack", "fgsm", "pgd", "mifgsm", "apgd", "apgdt", "fab", "square"} < set(attack_names("linf"))
    assert not {"pgdl2", "cw", "deepfool"} & set(attack_names("linf"))
    assert set(attack_names()) == set(CATALOGUE)


def test_square_on_an_image_too_small_for_it():
    shape = (1, 4, 4)
    model, images = Mlp(10, shape), grey_images(2, shape)
    with pytest.raises(AttackError, match=r"square cannot run: .* at least 5 rows.*Use autoattack"):
        run_attack(model, images, predicted(model, images), L2, "square", seed=0)
