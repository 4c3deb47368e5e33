"""The adversarial examples that a run keeps: real ones, the closest ones, the same whoever computed them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.small_runs import Plain, labelled_as_predicted, sandwich, small_run

from timm_lipschitz import fold
from timm_lipschitz.errors import RecordError
from timm_lipschitz.evaluation import evaluate
from timm_lipschitz.leaderboard import add, build, check
from timm_lipschitz.records import Examples, read_run


def test_each_example_changes_the_prediction_at_the_distance_of_the_table(tmp_path):
    model = sandwich()
    data = labelled_as_predicted(model, count=18)
    run = small_run(tmp_path)
    found = run.examples
    assert found is not None
    assert 1 <= len(found.index) <= 8
    np.testing.assert_array_equal(found.image, data.pixels(found.index.tolist()).numpy())
    with torch.no_grad():
        network = fold(model.double())
        clean, predicted = (
            network(torch.from_numpy(x).double()).argmax(1).numpy() for x in (found.image, found.adversarial)
        )
    np.testing.assert_array_equal(clean, run.images.label[found.index])
    np.testing.assert_array_equal(predicted, found.prediction)
    assert np.all(clean != predicted)
    np.testing.assert_allclose(found.distance, run.attacks.smallest_distance(found.index, "l2"), rtol=1e-12)
    assert np.all(found.distance >= run.images.radius[found.index])
    entry = add(tmp_path, tmp_path / "boards")
    copied = entry.with_name(f"{run.record.id}.examples.safetensors")
    assert copied.read_bytes() == (tmp_path / "examples.safetensors").read_bytes()
    build(tmp_path / "boards")
    assert check(tmp_path / "boards").entries == 1
    broken = np.unique(run.attacks.index[run.attacks.status == "broken"])
    assert set(found.index.tolist()) & set(broken.tolist())


def test_a_model_without_certificates_has_examples_too(tmp_path):
    model = Plain()
    data = labelled_as_predicted(model)
    run = evaluate(model, data, ["l2:3.0", "linf:0.1"], ["apgd"], run_dir=tmp_path, seed=0, batch_size=12)
    assert run.examples is not None
    with torch.no_grad():
        predicted = model(torch.from_numpy(run.examples.adversarial)).argmax(1).numpy()
    np.testing.assert_array_equal(predicted, run.examples.prediction)


def test_without_attacks_there_are_none(tmp_path):
    model = sandwich()
    run = evaluate(model, labelled_as_predicted(model), ["l2:0.3"], [], run_dir=tmp_path, seed=0)
    assert run.examples is None
    assert not (tmp_path / "examples.safetensors").exists()


def test_a_changed_pixel_is_found(tmp_path):
    small_run(tmp_path)
    path = tmp_path / "examples.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RecordError, match=r"examples\.safetensors has SHA-256 .*: damaged or replaced"):
        read_run(tmp_path)


def mirror(path: Path) -> None:
    """Other pictures at the same distances: nothing in the tables contradicts them."""
    found = Examples.from_bytes(path.read_bytes())
    image, adversarial = found.image[..., ::-1], found.adversarial[..., ::-1]
    path.write_bytes(replace(found, image=image, adversarial=adversarial).to_bytes())


def test_other_pictures_that_fit_the_tables_are_found_in_a_leaderboard(tmp_path):
    run = small_run(tmp_path / "run")
    entry = add(tmp_path / "run", tmp_path / "boards")
    build(tmp_path / "boards")
    path = entry.with_name(f"{run.record.id}.examples.safetensors")
    honest = path.read_bytes()
    mirror(path)
    with pytest.raises(RecordError, match=r"examples\.safetensors has SHA-256 .*: damaged or replaced"):
        check(tmp_path / "boards")
    path.unlink()
    with pytest.raises(RecordError, match=r"examples\.safetensors is missing"):
        check(tmp_path / "boards")
    path.write_bytes(honest)
    assert check(tmp_path / "boards").entries == 1


def test_pictures_are_not_slipped_under_a_run_that_has_none(tmp_path):
    small_run(tmp_path / "run")
    model = sandwich()
    evaluate(model, labelled_as_predicted(model, count=18), ["l2:0.3"], [], run_dir=tmp_path / "plain", seed=0)
    shutil.copy(tmp_path / "run" / "examples.safetensors", tmp_path / "plain")
    with pytest.raises(RecordError, match=r"is not of this run, which has no examples: remove it"):
        read_run(tmp_path / "plain")
