"""An entry that is run again on a sample: an honest one is confirmed, and every way to embellish one is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import safetensors
import torch
from evaluation.small_runs import labelled_as_predicted, sandwich, small_run

from timm_lipschitz.attacks import _torchattacks
from timm_lipschitz.certification.certifier import Certifier
from timm_lipschitz.data import ImageDataset
from timm_lipschitz.errors import CertificateViolation, InvalidInputError, RecordError
from timm_lipschitz.leaderboard import verification
from timm_lipschitz.leaderboard.comparison import compare, sign_test
from timm_lipschitz.leaderboard.verification import Verification, draw_sample, named_model, verify
from timm_lipschitz.models.loading import LoadedModel
from timm_lipschitz.records import AttackTable, Run, Status, TrainingInfo

COUNT = 18


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    return labelled_as_predicted(sandwich(), count=COUNT)


def again(run: Run, dataset: ImageDataset, **changed: object) -> Verification:
    arguments = {"sample": COUNT, "seed": 1, "batch_size": 5, **changed}
    with mock.patch.multiple(_torchattacks, _STEPS=4, _APGD_STEPS=4):
        return verify(run, LoadedModel(sandwich(), "mine", "sandwich_mlp"), dataset, **arguments)


@pytest.mark.parametrize("attacks", [False, True])
@pytest.mark.parametrize("sample", [1, 7, 1000])
def test_an_honest_entry_is_confirmed(entry: Run, dataset: ImageDataset, sample: int, attacks: bool) -> None:
    found = again(entry, dataset, sample=sample, attacks=attacks)
    assert found.findings == ()
    assert len(found.sample) == min(sample, COUNT)
    assert found.attacks == (("pgdl2", "apgd") if attacks else ())
    found.require_confirmed()


def test_the_sample_is_random_sorted_and_follows_from_the_seed(entry: Run) -> None:
    drawn = [draw_sample(entry, 6, seed, attacked=False).tolist() for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(set(drawn[0]))
    assert len(drawn[0]) == 6


def test_attacks_are_repeated_on_images_that_they_were_given(tmp_path: Path, dataset: ImageDataset) -> None:
    run = small_run(tmp_path / "run", attack_limit=5)
    assert draw_sample(run, 100, 0, attacked=True).tolist() == list(range(5))
    assert len(draw_sample(run, 100, 0, attacked=False)) == COUNT


@pytest.mark.parametrize(("setting", "refuted"), [("steps", True), ("batch_size", False), ("queries l2:0.6", False)])
def test_an_attack_with_other_settings_is_found(entry: Run, dataset: ImageDataset, setting: str, refuted: bool) -> None:
    """Fewer steps under the same name leave more images standing."""
    attack = entry.record.attacks[0]
    name = f"{attack.name}.{setting}" if setting == "steps" else setting
    assert name in attack.settings
    weaker = attack.model_copy(update={"settings": {**attack.settings, name: 1}})
    record = entry.record.model_copy(update={"attacks": (weaker, *entry.record.attacks[1:])})
    found = again(replace(entry, record=record), dataset, attacks=True).findings
    assert [finding.text for finding in found] == (
        [f"pgdl2 at l2:0.3, l2:0.6: {name} is 1 in the record, {attack.settings[name]} now"] if refuted else []
    )
    assert again(replace(entry, record=record), dataset).findings == (), "no attack was repeated"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pgdl2.steps": None}, "l2:0.3, l2:0.6: pgdl2.steps is not stated in the record, 4 now"),
        ({"pgdl2.eps l2:0.6": 1e-4}, "l2:0.6: pgdl2.eps is 0.0001 in the record, 0.6 now"),
        ({"pgdl2.steps": None, "pgdl2.steps l2:0.3": 4, "pgdl2.steps l2:0.6": 1}, "l2:0.6: pgdl2.steps is 1 in the"),
        ({"restarts": 10**6}, "l2:0.3, l2:0.6: restarts is 1000000 in the record, not stated now"),
        ({"notes": ("all is well",)}, r"l2:0.3, l2:0.6: notes is ('all is well',) in the record, () now"),
    ],
)
def test_an_attack_that_states_less_more_or_else_is_found(
    entry: Run, dataset: ImageDataset, change: dict[str, Any], message: str
) -> None:
    """Left out, the number of steps would be anybody's guess."""
    attack = entry.record.attacks[0]
    settings = {name: value for name, value in {**attack.settings, **change}.items() if value is not None}
    attacks = (attack.model_copy(update={"settings": settings}), *entry.record.attacks[1:])
    record = entry.record.model_copy(update={"attacks": attacks})
    (finding,) = again(replace(entry, record=record), dataset, attacks=True).findings
    assert finding.text.startswith(f"pgdl2 at {message}")


def with_images(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Run], Run]:
    """The run with some columns of its table of images changed; its attacks are left out."""

    def changed(run: Run) -> Run:
        columns = {name: getattr(run.images, name).copy() for name in ("prediction", "margin", "radius", "correct")}
        change(columns)
        return replace(run, images=replace(run.images, **columns), attacks=AttackTable.empty())

    return changed


def first(run: Run, what: str) -> int:
    return int(np.flatnonzero(run.images.correct if what == "correct" else ~run.images.correct)[0])


def scale(name: str, row: int, factor: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(columns: dict[str, np.ndarray]) -> None:
        columns[name][row] *= factor

    return change


def test_a_larger_radius_is_found(entry: Run, dataset: ImageDataset) -> None:
    row = first(entry, "correct")
    found = again(with_images(scale("radius", row, 1 + 1e-5))(entry), dataset)
    assert [finding.image for finding in found.findings] == [row]
    assert "certified radius" in found.findings[0].text
    with pytest.raises(RecordError, match=rf"not confirmed: 1 finding\(s\) on 18 images\n  image {row}: certified"):
        found.require_confirmed()


def test_a_smaller_radius_is_a_remark(entry: Run, dataset: ImageDataset) -> None:
    found = again(with_images(scale("radius", first(entry, "correct"), 0.9))(entry), dataset)
    assert found.findings == ()
    assert found.remarks == ("1 of 18 radii are recorded smaller than measured now",)


def test_a_certificate_that_only_rounding_gives_is_found(entry: Run, dataset: ImageDataset) -> None:
    """A radius within the tolerance, but on the other side of eps."""
    row = first(entry, "correct")
    radius = float(entry.images.radius[row])
    nearest = float(np.nextafter(radius, np.inf))
    at = next(f for f in entry.record.results.threat_models)
    results = entry.record.results.model_copy(
        update={"threat_models": (at.model_copy(update={"threat_model": f"l2:{nearest!r}"}),)}
    )
    run = replace(entry, record=entry.record.model_copy(update={"results": results}))
    embellished = with_images(scale("radius", row, 1 + 1e-12))(run)
    (finding,) = again(embellished, dataset).findings
    assert finding.image == row
    assert "not certified there now" in finding.text


def test_another_margin_or_prediction_is_found(entry: Run, dataset: ImageDataset) -> None:
    row = first(entry, "correct")
    (finding,) = again(with_images(scale("margin", row, 2.0))(entry), dataset).findings
    assert (finding.image, "margin" in finding.text) == (row, True)

    wrong = first(entry, "misclassified")

    def correct(columns: dict[str, np.ndarray]) -> None:
        columns["prediction"][wrong] = entry.images.label[wrong]
        columns["margin"][wrong], columns["correct"][wrong] = 0.5, True

    (finding,) = again(with_images(correct)(entry), dataset).findings
    assert (finding.image, "prediction" in finding.text) == (wrong, True)


def test_a_statement_that_was_not_proved_and_another_training_are_found(entry: Run) -> None:
    certification = entry.record.certification
    assert certification is not None

    def claims(**changes: object) -> list[str]:
        run = replace(entry, record=entry.record.model_copy(update=changes))
        return [finding.text for finding in compare(run, replace(entry, record=checked), np.arange(COUNT)).findings]

    seed_0, seed_1 = (TrainingInfo(recipe="r", seed=seed, tuned_on="validation") for seed in (0, 1))
    checked = entry.record
    (text,) = claims(certification=certification.model_copy(update={"arithmetic": "float32"}))
    assert "speak of arithmetic 'float32' in the record, 'real' was measured" in text
    checked = checked.model_copy(update={"training": seed_0})
    assert claims(training=seed_0) == []
    (text,) = claims(training=None)
    assert "training: None recorded" in text
    silent = replace(entry, record=entry.record.model_copy(update={"training": None}))
    told = replace(entry, record=entry.record.model_copy(update={"training": seed_0}))
    found = compare(told, silent, np.arange(COUNT))
    assert found.findings == [], "weights from elsewhere do not say how they were trained"
    assert found.remarks == ["how the network was trained is not confirmed: these weights do not say it"]
    checked = checked.model_copy(update={"training": seed_0.model_copy(update={"settings": {"epochs": 40}})})
    (text,) = claims(training=seed_0)
    assert "settings={}" in text
    (text,) = claims(training=seed_0.model_copy(update={"settings": {"epochs": 4}}))
    assert "'epochs': 4}" in text
    (text,) = claims(training=seed_1)
    assert "seed=1" in text
    assert "the checkpoint says" in text


def test_a_split_that_is_said_to_be_smaller_is_found(entry: Run, dataset: ImageDataset) -> None:
    """A record of the first images that calls them the whole split would be ranked."""
    small = entry.record.dataset.model_copy(update={"size": COUNT - 3})
    with pytest.raises(RecordError, match=f"has {COUNT} images in this split, not {COUNT - 3}"):
        again(replace(entry, record=entry.record.model_copy(update={"dataset": small})), dataset)


def test_other_pictures_and_another_class_among_the_examples_are_found(entry: Run, dataset: ImageDataset) -> None:
    """Whichever images are drawn."""
    examples = entry.examples
    assert examples is not None
    image = examples.image.copy()
    image[0] = 1 - image[0]
    (finding,) = again(replace(entry, examples=replace(examples, image=image)), dataset, sample=1).findings
    assert (finding.image, "picture" in finding.text) == (examples.index[0], True)

    third = 3 - examples.prediction - entry.images.label[examples.index]  # of the classes 0, 1, 2
    other = replace(examples, prediction=np.concatenate([examples.prediction[:-1], third[-1:]]))
    (finding,) = again(replace(entry, examples=other), dataset, sample=1).findings
    assert finding.image == examples.index[-1]
    assert f"is taken for {examples.prediction[-1]}, the record says {third[-1]}" in finding.text


def test_rounding_of_a_margin_is_not_a_difference(entry: Run, dataset: ImageDataset) -> None:
    row = first(entry, "correct")
    assert again(with_images(scale("margin", row, 1 + 1e-9))(entry), dataset).findings == ()


def test_an_adversarial_example_inside_a_radius_is_found(entry: Run, dataset: ImageDataset) -> None:
    row = int(np.argmax(entry.images.radius))
    inside = 0.5 * float(entry.images.radius[row])
    table = AttackTable.of_attack([row], "l2:0.6", "pgdl2", [Status.STANDING.value], np.array([inside]))
    found = again(replace(entry, attacks=table), dataset)
    assert [finding.image for finding in found.findings] == [row]
    assert "inside the radius" in found.findings[0].text


def test_a_bound_that_is_too_small_and_an_assertion_that_is_hidden(entry: Run, dataset: ImageDataset) -> None:
    record = entry.record
    bound = record.model.lipschitz_rigorous
    assert bound is not None
    model = record.model.model_copy(update={"lipschitz_rigorous": 0.9 * bound, "parameters": 3})
    texts = [
        finding.text
        for finding in again(replace(entry, record=record.model_copy(update={"model": model})), dataset).findings
    ]
    assert len(texts) == 2
    assert any("Lipschitz bound" in text for text in texts)
    assert any("parameters is 3" in text for text in texts)

    certification = record.certification
    assert certification is not None
    measured = replace(
        entry,
        record=record.model_copy(update={"certification": certification.model_copy(update={"asserted": ("x",)})}),
    )
    (finding,) = compare(entry, measured, np.arange(COUNT)).findings
    assert "does not say so" in finding.text


def verdicts(run: Run, status: dict[int, Status]) -> Run:
    """The run under one attack, with these verdicts for its correct images that l2:0.6 does not certify."""
    index = np.array(sorted(status))
    values = [status[i].value for i in index]
    distance = np.array([0.59 if status[i] is Status.BROKEN else np.nan for i in index])
    return replace(run, attacks=AttackTable.of_attack(index, "l2:0.6", "pgdl2", values, distance))


@pytest.mark.parametrize(("worse", "better", "refuted"), [(9, 0, False), (10, 0, True), (12, 6, False), (0, 12, False)])
def test_more_broken_images_than_chance_explains(entry: Run, worse: int, better: int, refuted: bool) -> None:
    sample = np.arange(COUNT)
    run = replace(entry, images=replace(entry.images, radius=np.zeros(COUNT)))  # nothing is certified
    was = {i: Status.BROKEN if i >= COUNT - better else Status.STANDING for i in range(COUNT)}
    now = {i: Status.BROKEN if i < worse else Status.STANDING for i in range(COUNT)}
    found = compare(verdicts(run, was), verdicts(run, now), sample)
    assert bool(found.findings) == refuted
    assert bool(found.remarks) == (worse > 0 and not refuted)


def test_the_sign_test() -> None:
    assert sign_test(0, 0) == sign_test(0, 5) == 1.0
    assert sign_test(1, 0) == 0.5
    assert sign_test(3, 1) == (4 + 1) / 16


def test_a_certified_image_that_breaks_is_found(entry: Run) -> None:
    sample = np.arange(COUNT)
    was, now = verdicts(entry, {4: Status.CERTIFIED}), verdicts(entry, {4: Status.BROKEN})
    texts = [finding.text for finding in compare(was, now, sample).findings if finding.image == 4]
    assert "certified at l2:0.6 in the record, broken by pgdl2 now" in texts


def test_a_wrong_certificate_raises_the_alarm_and_names_the_image(
    tmp_path: Path, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Certifier.__call__

    def doubled(self: Certifier, *args: object, **kwargs: object) -> object:
        found = call(self, *args, **kwargs)
        return replace(found, radius=50 * found.radius)

    run = small_run(tmp_path / "run")
    monkeypatch.setattr(Certifier, "__call__", doubled)
    kept: list[Path] = []
    make = verification.tempfile.mkdtemp
    monkeypatch.setattr(
        verification.tempfile, "mkdtemp", lambda prefix: kept.append(Path(make(prefix, dir=tmp_path))) or str(kept[-1])
    )
    with pytest.raises(CertificateViolation, match=r"Image \d+ of this sample is image (\d+) of the split") as alarm:
        again(run, dataset, attacks=True, sample=15)
    assert alarm.value.exit_code == 3
    with safetensors.safe_open(kept[0] / "violation.safetensors", framework="np") as file:
        row = int(file.metadata()["index"])
    chosen = draw_sample(run, 15, 1, attacked=True)
    assert str(alarm.value).endswith(f"image {chosen[row]} of the split")


def test_nothing_is_left_behind(
    entry: Run, dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification.tempfile, "tempdir", str(tmp_path))
    again(entry, dataset, sample=2)
    assert list(tmp_path.iterdir()) == []


def test_another_model_or_data_set_is_refused(entry: Run, dataset: ImageDataset) -> None:
    other = sandwich()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(RecordError, match="is not the model of the record: its weights have SHA-256"):
        verify(entry, LoadedModel(other, "other", "other"), dataset, seed=0)
    images = dataset.images.clone()
    images[0, 0, 0, 0] ^= 1
    with pytest.raises(RecordError, match="is not the data set of the record"):
        again(entry, replace(dataset, images=images))


@pytest.mark.parametrize("count", [0, -1])
def test_a_sample_without_images_is_refused(entry: Run, count: int) -> None:
    with pytest.raises(InvalidInputError, match="at least one image"):
        draw_sample(entry, count, 0, attacked=False)


def test_no_attacks_to_repeat(entry: Run) -> None:
    with pytest.raises(InvalidInputError, match="no attacks to repeat"):
        draw_sample(replace(entry, attacks=AttackTable.empty()), 3, 0, attacked=True)


@pytest.mark.parametrize("name", ["os:abort", "local-dir:/somewhere", "package.module:function"])
def test_a_record_does_not_decide_what_is_executed(entry: Run, name: str) -> None:
    record = entry.record.model_copy(update={"model": entry.record.model.model_copy(update={"name": name})})
    with pytest.raises(InvalidInputError, match="--model"):
        named_model(record)


@pytest.mark.parametrize("name", ["sandwich_cnn.mnist", "hf-hub:user/model"])
def test_names_that_may_be_loaded(entry: Run, name: str) -> None:
    record = entry.record.model_copy(update={"model": entry.record.model.model_copy(update={"name": name})})
    assert named_model(record) == name
