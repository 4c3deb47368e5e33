"""Evaluation of small networks whose truth is known."""

import dataclasses
import importlib
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import safetensors
import timm
import torch
from evaluation.small_runs import Plain, labelled_as_predicted, noise, sandwich
from torch import nn

import timm_lipschitz.evaluation.attacking as attacking
from timm_lipschitz.attacks import AttackResult, _autoattack, _torchattacks
from timm_lipschitz.certification import certify
from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import (
    AttackError,
    CertificateViolation,
    InvalidInputError,
    NonFiniteError,
    OutOfMemoryError,
    RecordError,
    RunDirectoryError,
    TimmLipschitzError,
)
from timm_lipschitz.evaluation import dry_run, evaluate
from timm_lipschitz.evaluation._ranks import Ranks, own_device
from timm_lipschitz.evaluation.subject import Subject
from timm_lipschitz.records import Status, read_run
from timm_lipschitz.threat_model import ThreatModel


def test_tables_agree_with_certificates_and_order_holds(tmp_path):
    model = sandwich()
    images = labelled_as_predicted(model)
    run = evaluate(model, images, ["l2:0.001", "l2:0.05", "l2:1.0"], ["pgdl2"], run_dir=tmp_path)
    certificates = certify(model, images.pixels(range(12)), images.labels)
    np.testing.assert_array_equal(run.images.radius, certificates.radius.numpy())
    np.testing.assert_array_equal(run.images.prediction, certificates.prediction.numpy())
    assert run.record.results.clean.count == 10
    for threat_model in ("l2:0.001", "l2:0.05", "l2:1.0"):
        figures = run.record.results.at(threat_model)
        assert figures is not None
        attack = figures.attacks[0]
        assert figures.certified.count <= attack.robust.count <= run.record.results.clean.count
        assert attack.proved.count == figures.certified.count
        assert attack.proved.count + attack.attacked.count == 10
    assert run.record.certification is not None
    assert read_run(tmp_path).record == run.record


def test_certified_images_are_not_attacked(tmp_path, monkeypatch):
    model = sandwich()
    images = labelled_as_predicted(model)
    seen: list[int] = []
    original = attacking.run_attack

    def counting(network, pixels, *args, **kwargs) -> AttackResult:
        seen.append(len(pixels))
        return original(network, pixels, *args, **kwargs)

    monkeypatch.setattr(attacking, "run_attack", counting)
    radius = certify(model, images.pixels(range(12)), images.labels).radius
    eps = round(float(radius[radius > 0].quantile(0.5)), 6)
    evaluate(model, images, [f"l2:{eps!r}"], ["pgdl2"], run_dir=tmp_path)
    assert sum(seen) == int(((radius <= eps) & (radius > 0)).sum())


def test_a_plain_model_is_attacked_without_certificates(tmp_path):
    model = Plain()
    run = evaluate(model, labelled_as_predicted(model), ["l2:0.0001", "l2:3.0"], ["pgdl2"], run_dir=tmp_path)
    assert run.record.certification is None
    assert run.record.model.lipschitz is None
    assert not run.images.radius.any()
    weak, strong = run.record.results.threat_models
    assert weak.certified.count == strong.certified.count == 0
    assert weak.attacks[0].attacked.count == strong.attacks[0].attacked.count == 10
    assert weak.attacks[0].broken.count < strong.attacks[0].broken.count


def test_limits(tmp_path):
    model = sandwich()
    images = labelled_as_predicted(model)
    run = evaluate(model, images, ["l2:1.0"], ["pgdl2"], run_dir=tmp_path, limit=8, attack_limit=3)
    assert len(run.images) == 8
    assert run.record.dataset.evaluated.count == 8
    assert run.record.attacked is not None
    assert run.record.attacked.count == 3
    assert set(run.attacks.index) == {0, 1, 2}
    for wrong in ({"limit": 0}, {"attack_limit": 0}, {"limit": -1}):
        with pytest.raises(InvalidInputError, match=next(iter(wrong))):
            evaluate(model, images, ["l2:1.0"], run_dir=tmp_path / "other", **wrong)


def test_the_run_does_not_depend_on_when_it_ran(tmp_path):
    model = sandwich()
    images = labelled_as_predicted(model)
    for name in ("a", "b"):
        torch.manual_seed(len(name) + len(str(tmp_path)))
        evaluate(model, images, ["l2:0.2", "l2:1.0"], ["pgdl2"], run_dir=tmp_path / name, seed=7)
    for file in ("record.json", "images.parquet", "attacks.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_chunks_have_seeds_of_their_own(tmp_path, monkeypatch):
    seeds: list[int] = []
    original = attacking.run_attack

    def noting(*args, seed: int, **kwargs) -> AttackResult:
        seeds.append(seed)
        return original(*args, seed=seed, **kwargs)

    monkeypatch.setattr(attacking, "run_attack", noting)
    model = Plain()
    evaluate(model, labelled_as_predicted(model), ["l2:0.1", "l2:0.2"], ["pgdl2"], run_dir=tmp_path, batch_size=5)
    assert len(seeds) == len(set(seeds)) == 4


def test_modes_are_restored(tmp_path):
    model = sandwich().train()
    evaluate(model, noise(), ["l2:0.1"], run_dir=tmp_path)
    assert model.training


def forged(distance: float):
    """An attack that claims to break every image by a shift of a given L2 length."""

    def run_attack(network, pixels, labels, threat_model, attack, **kwargs) -> AttackResult:
        shift = torch.full_like(pixels, distance / pixels[0].numel() ** 0.5)
        points = torch.where(pixels + shift <= 1, pixels + shift, pixels - shift)
        lengths = ThreatModel.parse("l2:1").distance(points.double() - pixels.double())
        return AttackResult(
            attack=attack,
            threat_model=threat_model,
            success=lengths <= threat_model.radius,
            distance=lengths,
            adversarial=points,
            corrected=0,
            discarded=0,
            halved=0,
            forwards=1,
            queries=len(pixels),
            settings={"library": "forged"},
        )

    return run_attack


def test_a_flip_that_float64_confirms_stops_the_run_and_saves_the_witness(tmp_path, monkeypatch):
    """The certificate is made wrong: the bound is taken for a fifth of what it is."""
    model = sandwich()
    images = labelled_as_predicted(model, wrong=0)
    module = importlib.import_module("timm_lipschitz.certification.certifier")  # the package's name is the function's
    honest = module.network_bound
    monkeypatch.setattr(
        module,
        "network_bound",
        lambda steps: type(honest(steps))(honest(steps).backbone, honest(steps).logits, honest(steps).pairs / 5),
    )
    radius = certify(model, images.pixels(range(12)), images.labels).radius
    eps = float(radius.max()) * 1.01
    with pytest.raises(CertificateViolation, match="float64 confirms") as violation:
        evaluate(model, images, [f"l2:{eps!r}"], ["pgdl2"], run_dir=tmp_path)
    assert violation.value.exit_code == 3
    assert "the certificate is wrong; please report it" in str(violation.value)
    with safetensors.safe_open(tmp_path / "violation.safetensors", "pt") as file:
        assert set(file.keys()) == {"image", "adversarial", "logits"}
        facts = file.metadata()
        assert float(facts["distance"]) < float(facts["radius"])
        flipped = int(file.get_tensor("logits")[1].argmax())
    assert flipped != int(facts["label"])
    assert not (tmp_path / "record.json").exists()


def test_a_violation_leaves_no_partial_record(tmp_path, monkeypatch):
    """The attack at the first eps is finished, but certified accuracy is known to be wrong."""
    original = attacking.run_attack

    def violating(network, pixels, labels, threat_model, attack, **kwargs) -> AttackResult:
        if threat_model.radius > 0.2:
            raise CertificateViolation("forged")
        return original(network, pixels, labels, threat_model, attack, **kwargs)

    monkeypatch.setattr(attacking, "run_attack", violating)
    model = sandwich()
    with pytest.raises(CertificateViolation, match="forged"):
        evaluate(model, labelled_as_predicted(model), ["l2:0.2", "l2:5.0"], ["pgdl2"], run_dir=tmp_path)
    assert list((tmp_path / "chunks").glob("00-pgdl2-*"))
    assert not (tmp_path / "record.json").exists()


def test_a_flip_of_rounding_alone_lowers_the_radius_and_counts_as_broken(tmp_path, monkeypatch):
    model = sandwich()
    images = labelled_as_predicted(model, wrong=0)
    radius = certify(model, images.pixels(range(12)), images.labels).radius
    shift = float(radius.min()) * 0.5  # inside every radius: float64 confirms no flip
    small, large = shift * 0.9, float(radius.max()) * 2
    monkeypatch.setattr(attacking, "run_attack", forged(shift))
    run = evaluate(model, images, [f"l2:{small!r}", f"l2:{large!r}"], ["pgdl2"], run_dir=tmp_path)
    assert (run.images.radius <= shift * (1 + 1e-5)).all()
    assert run.record.certification is not None
    assert run.record.certification.lowered == 12
    below, above = run.record.results.threat_models
    assert below.certified.count == 12, "below the points' distance the images stay certified"
    assert above.attacks[0].broken.count == 12
    assert run.examples is None, "float64 takes none of the points for another class"


def test_a_point_is_judged_that_is_inside_a_radius_and_not_the_closest_in_the_norm(tmp_path, monkeypatch):
    """The closest point in L-infinity lies outside every radius, another query of the attack inside."""
    model = sandwich()
    images = labelled_as_predicted(model, wrong=0)
    radius = certify(model, images.pixels(range(12)), images.labels).radius
    inside, outside = float(radius.min()) * 0.5, float(radius.max()) * 1.5

    def both(network, pixels, *args, **kwargs) -> AttackResult:
        closer = forged(inside)(network, pixels, *args, **kwargs)
        return dataclasses.replace(forged(outside)(network, pixels, *args, **kwargs), adversarial_l2=closer.adversarial)

    monkeypatch.setattr(attacking, "run_attack", both)
    run = evaluate(model, images, [f"linf:{float(radius.max())!r}"], ["pgd"], run_dir=tmp_path / "rounding")
    assert run.record.certification is not None
    assert run.record.certification.lowered == 12
    assert (run.images.radius <= inside * (1 + 1e-5)).all()

    monkeypatch.setattr(Subject, "float64", property(lambda self: Undefined()))
    with pytest.raises(CertificateViolation, match="inside its certified radius"):
        evaluate(model, images, [f"linf:{float(radius.max())!r}"], ["pgd"], run_dir=tmp_path / "violation")


def test_an_interrupt_keeps_the_finished_attacks_in_a_partial_record(tmp_path, monkeypatch):
    model = Plain()
    original = attacking.run_attack

    def interrupted(network, pixels, labels, threat_model, attack, **kwargs) -> AttackResult:
        if threat_model.radius > 0.1:
            raise KeyboardInterrupt
        return original(network, pixels, labels, threat_model, attack, **kwargs)

    monkeypatch.setattr(attacking, "run_attack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, labelled_as_predicted(model), ["l2:0.1", "l2:0.2"], ["pgdl2"], run_dir=tmp_path)
    run = read_run(tmp_path)
    assert run.record.status == "partial"
    assert set(run.attacks.threat_model) == {"l2:0.1"}


def test_everything_is_refused_before_work_starts(tmp_path, monkeypatch):
    model = sandwich()
    monkeypatch.setattr(type(model), "forward", lambda *_: pytest.fail("the model ran"))
    for arguments, error, message in (
        ((["l2:-1"], []), InvalidInputError, "negative"),
        (([], []), InvalidInputError, "no threat model"),
        ((["l2:1.0"], ["nonsense"]), AttackError, "nonsense"),
        ((["l2:1.0"], ["fgsm"]), AttackError, "fgsm"),
        ((["l2:1.0"], ["pgdl2", "pgdl2"]), InvalidInputError, "twice"),
    ):
        with pytest.raises(error, match=message):
            evaluate(model, noise(), *arguments, run_dir=tmp_path / "run")
    with pytest.raises(InvalidInputError, match="classes"):
        evaluate(model, noise(classes=4), run_dir=tmp_path / "run")
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(RunDirectoryError):
        evaluate(model, noise(), run_dir=occupied)


def test_a_run_directory_is_never_overwritten(tmp_path):
    model = sandwich()
    evaluate(model, noise(), ["l2:0.1"], run_dir=tmp_path)
    before = (tmp_path / "record.json").read_bytes()
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        evaluate(model, noise(), ["l2:0.2"], run_dir=tmp_path)
    assert (tmp_path / "record.json").read_bytes() == before


def test_non_finite_logits_are_an_error_not_a_figure(tmp_path):
    model = Plain()
    with torch.no_grad():
        model.body[3].bias[1] = float("nan")
    with pytest.raises(NonFiniteError, match="image 0"):
        evaluate(model, noise(), ["l2:0.1"], run_dir=tmp_path)


def test_ties_are_not_correct(tmp_path):
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x.flatten(1)[:, :3]

    run = evaluate(Constant(), noise(), ["l2:0.1"], run_dir=tmp_path)
    assert run.record.results.clean.count == 0


def test_minimal_norm_distances_above_eps_stay_standing(tmp_path):
    model = Plain()
    run = evaluate(model, labelled_as_predicted(model), ["l2:0.0001"], ["deepfool"], run_dir=tmp_path)
    rows = run.attacks.status == Status.STANDING.value
    assert rows.sum() == 10
    assert (run.attacks.distance[rows] > 0.0001).any()


def test_run_json_holds_command_and_phases(tmp_path):
    model = sandwich()
    images = labelled_as_predicted(model)
    run = evaluate(model, images, ["l2:1.0"], ["pgdl2"], run_dir=tmp_path, command=["timm-lipschitz", "evaluate", "x"])
    assert run.run_info.command == ("timm-lipschitz", "evaluate", "x")
    assert set(run.run_info.seconds) == {"certify", "pgdl2 at l2:1.0"}
    settings = json.loads(Path(tmp_path, "record.json").read_text())["attacks"][0]["settings"]
    assert settings["library"] == "torchattacks"
    assert settings["sub_attacks"] == ["pgdl2"]
    assert settings["pgdl2.steps"] >= 10


def test_a_dry_run_says_what_would_be_attacked_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = sandwich()
    images = labelled_as_predicted(model)
    threat_models = ["l2:0.05", "l2:0.5"]
    found = dry_run(model, images, threat_models, ["pgdl2", "cw"], audit=1)
    assert list(tmp_path.iterdir()) == []
    run = evaluate(model, images, threat_models, ["pgdl2", "cw"], audit=1, run_dir=tmp_path / "run")
    assert [stage.stage for stage in found.stages] == [
        "pgdl2 at l2:0.05",
        "pgdl2 at l2:0.5",
        "cw at l2:0.5",  # once for all eps
    ]
    for stage, text in zip(found.stages, threat_models, strict=False):
        figures = run.record.results.at(text)
        assert figures is not None
        attack = figures.attacks[0]
        assert stage.proved == attack.proved.count
        assert stage.images == attack.attacked.count + min(1, attack.proved.count)
        assert stage.forwards == 55 * stage.images
        assert (stage.seconds > 0) == (stage.images > 0)
    assert found.batch_memory is None


def test_an_estimate_measures_halves_of_a_batch_that_does_not_fit(monkeypatch):
    model = sandwich()
    images = labelled_as_predicted(model)
    module = importlib.import_module("timm_lipschitz.evaluation.estimate")  # the package's name is the function's
    original, sizes = module._input_gradient, []

    def scarce(network, pixels):
        if len(pixels) > 4:
            raise torch.OutOfMemoryError("no more")
        sizes.append(len(pixels))
        return original(network, pixels)

    monkeypatch.setattr(module, "_input_gradient", scarce)
    found = dry_run(model, images, ["l2:0.5"], ["pgdl2"])
    assert found.stages[0].images == 10
    assert found.stages[0].seconds > 0
    assert set(sizes) == {2, 3}


def test_a_function_is_evaluated_like_a_module(tmp_path):
    model = Plain()
    images = labelled_as_predicted(model)

    def brightness(pixels: torch.Tensor) -> torch.Tensor:
        return model.body(pixels)

    module = evaluate(model, images, ["l2:0.1"], ["pgdl2"], run_dir=tmp_path / "a")
    function = evaluate(brightness, images, ["l2:0.1"], ["pgdl2"], run_dir=tmp_path / "b")
    assert function.record.results == module.record.results
    assert function.record.model.name == "brightness"
    assert function.record.certification is None
    with pytest.raises(InvalidInputError, match="cannot be evaluated"):
        evaluate(3, images, ["l2:0.1"], run_dir=tmp_path / "c")  # type: ignore[arg-type]


def test_an_audit_attacks_certified_images_and_leaves_the_figures(tmp_path, monkeypatch):
    model = sandwich()
    images = labelled_as_predicted(model)
    plain = evaluate(model, images, ["l2:0.05"], ["pgdl2"], run_dir=tmp_path / "a")
    seen: list[int] = []
    original = attacking.run_attack

    def counting(network, pixels, *args, **kwargs) -> AttackResult:
        seen.append(len(pixels))
        return original(network, pixels, *args, **kwargs)

    monkeypatch.setattr(attacking, "run_attack", counting)
    audited = evaluate(model, images, ["l2:0.05"], ["pgdl2"], run_dir=tmp_path / "b", audit=3)
    certified = plain.record.results.threat_models[0].certified.count
    assert certified >= 3
    assert sum(seen) == 10 - certified + 3
    assert audited.record.results == plain.record.results
    assert audited.record.attacks[0].settings["audited l2:0.05"] == 3


def test_an_image_broken_at_an_eps_is_broken_at_every_eps_that_reaches_the_point(tmp_path, monkeypatch):
    """The attack finds nothing at the larger eps, and at the smaller one a point; the point counts at both."""
    model = Plain()
    images = labelled_as_predicted(model, wrong=0)
    monkeypatch.setattr(attacking, "require_rounding", lambda *_: None)

    def weakening(network, pixels, labels, threat_model, attack, **kwargs) -> AttackResult:
        if threat_model.radius > 0.2:
            return forged(9.0)(network, pixels, labels, threat_model, attack, **kwargs)
        return forged(0.15)(network, pixels, labels, threat_model, attack, **kwargs)

    monkeypatch.setattr(attacking, "run_attack", weakening)
    run = evaluate(model, images, ["l2:0.1", "l2:0.2", "l2:0.4"], ["pgdl2"], run_dir=tmp_path)
    assert [at.attacks[0].broken.count for at in run.record.results.threat_models] == [0, 12, 12]
    assert run.attacks.distance == pytest.approx(0.15, rel=1e-5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda images: images.flatten(1)[:, :2], r"label 2 of sample 2 is outside 0\.\.1"),
        (lambda images: images.flatten(1)[:, 0], "attacks need logits"),
        (lambda images: (images.flatten(1)[:, :3],), "returns a tuple"),
        (lambda images: images.flatten(1)[:, :3].softmax(1), "returns probabilities"),
        (lambda images: torch.rand(len(images), 3), "not deterministic"),
        (Plain().double(), "torch.float64"),
    ],
)
def test_a_plain_model_that_gives_no_logits_is_refused_without_attacks_too(model, message, tmp_path):
    with pytest.raises(InvalidInputError, match=message):
        evaluate(model, noise(), ["l2:0.1"], run_dir=tmp_path)
    assert not (tmp_path / "record.json").exists()


class Undefined(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 3), torch.nan)


class Padded(Plain):
    """Refuses what it was not made for as many networks do, by an assertion."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] == 8, f"Input width ({x.shape[-1]}) doesn't match model (8)"
        return super().forward(x)


def narrow(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flatten(1) @ torch.zeros(64, 3)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), r"Sequential fails on .*RuntimeError: .*shapes cannot"),
        (Padded(), r"Padded fails on .*AssertionError: Input width \(6\) doesn't match model \(8\)"),
        (narrow, r"narrow fails on .*RuntimeError"),
        (timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1, in_chans=1), "VisionTransformer fails on"),
    ],
)
def test_images_of_another_size_than_a_plain_model_takes_are_a_line(model, message, tmp_path):
    with pytest.raises(InvalidInputError, match=message):
        dry_run(model, noise(), ["l2:0.1"], ["pgdl2"])
    with pytest.raises(InvalidInputError, match=message):
        dry_run(model, noise(), ["l2:0.1"], ["pgdl2"], compile=True)
    with pytest.raises(InvalidInputError, match=message) as error:
        evaluate(model, noise(), ["l2:0.1"], ["pgdl2"], run_dir=tmp_path)
    assert "images of shape (1, 6, 6) (channels, height, width)" in str(error.value)
    assert "Give it images of the size that it takes" in str(error.value)
    assert "\n" not in str(error.value)


def test_running_out_of_memory_is_not_taken_for_a_wrong_size(tmp_path):
    def scarce(pixels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no more")

    with pytest.raises(OutOfMemoryError, match="even on one image alone: no more"):
        evaluate(scarce, noise(), ["l2:0.1"], run_dir=tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"batch_size": 2.5}, "batch_size must be an integer"),
        ({"limit": True}, "limit must be an integer"),
        ({"record_id": "../x"}, "not safe as a file name"),
        ({"device": "warp"}, "device 'warp' is not known"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_settings_that_cannot_be_are_lines_not_tracebacks(changed, message, tmp_path):
    with pytest.raises(TimmLipschitzError, match=message):
        evaluate(sandwich(), noise(), ["l2:0.1"], run_dir=tmp_path / "run", **changed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("asked", [None, "cuda", torch.device("cuda")])
def test_each_rank_has_a_gpu_of_its_own(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [own_device(asked, Ranks(rank, 4, rank % 2)).index for rank in range(4)] == [0, 1, 0, 1]
    assert own_device("cuda:1", Ranks(0, 4, 0)).index == 1
    assert own_device(asked, Ranks()).index is None
    assert own_device("cpu", Ranks(1, 4, 1)).type == "cpu"


def test_a_dry_run_holds_a_few_batches_of_images_at_a_time(monkeypatch):
    asked = []
    original = ImageDataset.pixels

    def counting(self, indices, **kwargs):
        asked.append(len(indices))
        return original(self, indices, **kwargs)

    monkeypatch.setattr(ImageDataset, "pixels", counting)
    model = sandwich()
    dry_run(model, labelled_as_predicted(model, count=40), ["l2:0.1"], batch_size=2)
    assert max(asked[1:]) == 8, "the first call made the labels"


def test_a_record_says_what_ran_at_each_threat_model(tmp_path):
    """Square does not tile 4x4 images for L2, and does for L-infinity; eps differs; two runs of cw have two weights."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    pixels = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = model(pixels / 255).argmax(dim=1)
    images = ImageDataset(name="tiny", split="test", images=pixels, labels=labels, classes=tuple("abc"), source="test")
    with mock.patch.multiple(_autoattack, _ITERATIONS=3, _QUERIES=10):
        run = evaluate(model, images, ["l2:0.001", "linf:0.001"], ["autoattack"], run_dir=tmp_path / "aa")
    settings = run.record.attacks[0].settings
    assert any("square left out" in note for note in settings["notes l2:0.001"])
    assert not any("square left out" in note for note in settings["notes linf:0.001"])
    assert "square" not in settings["sub_attacks l2:0.001"]
    assert settings["sub_attacks linf:0.001"][-1] == "square"
    assert settings["library"] == "pyautoattack"

    with mock.patch.multiple(_torchattacks, _CW_STEPS=2, _STEPS=2):
        run = evaluate(model, images, ["l2:0.001", "l2:0.002"], ["pgdl2", "cw"], run_dir=tmp_path / "ta")
    pgd, cw = (attack.settings for attack in run.record.attacks)
    assert (pgd["pgdl2.eps l2:0.001"], pgd["pgdl2.eps l2:0.002"], pgd["pgdl2.steps"]) == (0.001, 0.002, 2)
    assert (list(cw["sub_attacks"]), cw["cw-1.c"], cw["cw-2.c"]) == (["cw-1", "cw-2"], 1, 10)


def test_an_image_that_loses_its_certificate_unattacked_does_not_stand(tmp_path, monkeypatch):
    """A flip of rounding in one pixel: its L2 norm takes an L-infinity certificate away; its own norm does not."""
    model = sandwich()
    images = labelled_as_predicted(model, wrong=0)
    radius = certify(model, images.pixels(range(12)), images.labels).radius
    index = int(radius.argmax())
    small, large = float(radius[index]) / 6 * 0.9, float(radius[index]) / 6 * 1.1  # a ball in 36 pixels, L-infinity

    def one_pixel(network, pixels, labels, threat_model, attack, **kwargs) -> AttackResult:
        result = forged(0.1)(network, pixels, labels, threat_model, attack, **kwargs)
        points = pixels.clone()
        points[:, 0, 0, 0] += torch.where(points[:, 0, 0, 0] < 0.5, 1.0, -1.0) * (large + small) / 2
        lengths = threat_model.distance(points.double() - pixels.double())
        return dataclasses.replace(result, adversarial=points, distance=lengths, success=lengths <= large)

    monkeypatch.setattr(attacking, "run_attack", one_pixel)
    monkeypatch.setattr(attacking, "require_rounding", lambda *_: None)
    at = [f"linf:{small!r}", f"linf:{large!r}"]
    with pytest.raises(
        RecordError, match=rf"image {index} is no longer certified at linf:.* run again with --audit 12"
    ):
        evaluate(model, images, at, ["pgd"], run_dir=tmp_path / "unseen")
    assert not (tmp_path / "unseen" / "record.json").exists()
    run = evaluate(model, images, at, ["pgd"], run_dir=tmp_path / "audited", audit=12)
    assert run.record.results.threat_models[0].attacks[0].standing.count > 0


def test_an_example_counts_in_every_norm_whose_ball_must_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken within linf:0.4, an image of 36 pixels has a point within l2:2.4; at l2:3.0 it must not stand."""
    real = attacking.run_attack

    def blind_in_l2(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, at: ThreatModel, *more, **named):
        found = real(model, images, labels, at, *more, **named)
        none = torch.full_like(found.distance, torch.nan)
        return dataclasses.replace(found, distance=none) if at.norm == "l2" else found

    monkeypatch.setattr(attacking, "run_attack", blind_in_l2)
    model = Plain()
    run = evaluate(model, labelled_as_predicted(model), ["linf:0.4", "l2:3.0"], ["apgd"], run_dir=tmp_path, seed=0)
    linf, l2 = (run.attacks.select(at, "apgd") for at in ("linf:0.4", "l2:3.0"))
    broken = linf.status == "broken"
    assert broken.any()
    np.testing.assert_array_equal(l2.status == "broken", broken)
    np.testing.assert_allclose(l2.distance[broken], 6 * linf.distance[broken])


def test_more_threat_models_than_a_record_holds_are_refused_before_the_work(tmp_path: Path) -> None:
    model = Plain()
    many = [f"l2:{number}/2000" for number in range(1, 1002)]
    with pytest.raises(InvalidInputError, match="1001 threat models or attacks are too many: a record holds 1000"):
        evaluate(model, labelled_as_predicted(model), many, [], run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "chunks").exists()
    run = evaluate(model, labelled_as_predicted(model), many[:100], [], run_dir=tmp_path / "run")
    assert len(run.record.results.threat_models) == 100
