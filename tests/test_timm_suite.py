"""Every model passes timm's own model tests: none is skipped, and one outcome differs on purpose.

timm loads weights for colour images into a network for grey ones, adapting the first layer or drawing it anew. Here
that is refused (`test_weights_of_another_input_fail_loudly`): adapted weights would be others than those trained.
"""

import xml.etree.ElementTree as ET
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
import timm
import timm_suite
from timm_contract import registered_models
from timm_suite import run_timm_tests, timm_model_tests

PER_MODEL = {
    "test_model_backward",
    "test_model_backward_fx",
    "test_model_forward",
    "test_model_forward_features",
    "test_model_forward_fx",
    "test_model_forward_fx_torchscript",
    "test_model_forward_intermediates",
    "test_model_forward_intermediates_features",
    "test_model_forward_torchscript",
    "test_prune_intermediate_layers_contract",
}
PER_CONFIG = {"test_model_default_cfgs"}
PER_CHECKPOINT = {"test_model_features_pretrained", "test_model_load_pretrained"}


def contract(model: str) -> dict[tuple[str, str], str]:
    """(test, name) -> outcome: 10 of the model, one more of each of its configurations, two of each checkpoint."""
    configurations = timm.list_models(model, include_tags=True)
    checkpoints = timm.list_models(model, include_tags=True, pretrained=True)
    pairs = [
        *((test, model) for test in PER_MODEL),
        *((test, name) for test in PER_CONFIG for name in configurations),
        *((test, name) for test in PER_CHECKPOINT for name in checkpoints),
    ]
    return {
        (test, name): "failure" if test == "test_model_load_pretrained" and channels_of(name) != 1 else "passed"
        for test, name in pairs
    }


def channels_of(name: str) -> int:
    """Of the images that a configuration is for; that test asks for one."""
    return timm.models.get_pretrained_cfg(name).input_size[0]


def outcomes(folder: Path) -> dict[tuple[str, str], str]:
    """(test, name) -> "passed", "failure", "error" or "skipped", from the JUnit report of a run."""
    found = {}
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        test, _, parameters = case.attrib["name"].rstrip("]").partition("[")  # test_model_forward[1-sandwich_cnn]
        found[test, parameters.rpartition("-")[2]] = case[0].tag if len(case) else "passed"
    return found


RIVALS = ("aol_cnn", "orthogonal_cnn", "plain_cnn", "sll_resnet")


def models() -> list[Any]:
    """All models; wider and deeper copies of smaller ones are marked exhaustive (sandwich_dnn_64 takes 10 GB)."""
    larger = (*(f"{rival}_" for rival in RIVALS), "sandwich_dnn_64")
    names = registered_models("timm_lipschitz")
    return [pytest.param(name, marks=pytest.mark.exhaustive) if name.startswith(larger) else name for name in names]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", models())
def test_model_passes_timms_own_tests(model: str, forkserver: BaseContext, tmp_path: Path) -> None:
    exit_code, output = run_timm_tests(forkserver, "timm_lipschitz", model, tmp_path)

    expected = contract(model)
    refused = "failure" in expected.values()
    assert outcomes(tmp_path) == expected, output[-10_000:]
    assert exit_code == (pytest.ExitCode.TESTS_FAILED if refused else pytest.ExitCode.OK)
    assert ("size mismatch for stages.0.weight" in output) == refused


def test_the_papers_models_and_their_explicit_forms_are_registered() -> None:
    cnn = {"sandwich_cnn", "sandwich_cnn_large", "sandwich_cnn_medium"}
    papers = {*cnn, "sandwich_dnn", "sandwich_dnn_64", "sandwich_mlp"}
    explicit = {"sandwich_bcop_cnn", "sandwich_bcop_cnn_large", "sandwich_bcop_cnn_medium"}
    assert papers | explicit | set(RIVALS) <= set(registered_models("timm_lipschitz"))


def test_a_faulty_model_fails(forkserver: BaseContext, tmp_path: Path) -> None:
    exit_code, output = run_timm_tests(forkserver, "faulty_plugin", "faulty_net", tmp_path)

    found = outcomes(tmp_path)
    assert len(found) == len(PER_MODEL) + len(PER_CONFIG)
    assert found["test_model_forward", "faulty_net"] == "failure"
    assert "Output included NaNs" in output
    assert exit_code == pytest.ExitCode.TESTS_FAILED


def test_a_package_without_models_is_an_error_not_zero_tests(forkserver: BaseContext, tmp_path: Path) -> None:
    exit_code, output = run_timm_tests(forkserver, "json", "no_such_model", tmp_path)

    assert exit_code == pytest.ExitCode.USAGE_ERROR
    assert "json registers no model" in output


def test_without_network_the_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_suite, "CACHE", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    with pytest.raises(RuntimeError, match=r"Where there is a network, run: \S+ \S+timm_suite\.py"):
        timm_model_tests()
