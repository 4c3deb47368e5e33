"""The scaling benchmark: exponents of growth, networks that grow, what does not fit, record and plot."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import memory, scaling
from benchmarks.contestants import Workload, build, make_batch
from benchmarks.growing import Growing, stages_of
from timm_lipschitz.layers import SandwichFourierConv2d

QUICK = ["sandwich_cnn", "--img-size", "8", "12", "--width", "1", "--depth", "2", "1", "--base-size", "8"]
QUICK += ["--batch-size", "2", "--threads", "1", "--device", "cpu", "--repeats", "3"]
STEM = "scaling-training-step-b2-cpu1"
needs_high_water_mark = pytest.mark.skipif(not memory.can_measure("cpu"), reason="needs Linux's resettable VmHWM")


@pytest.fixture(autouse=True)
def _global_settings_stay():
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn.benchmark
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = cudnn
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def figures(**medians: float) -> dict:
    return {"figures": {name: {"median": median} for name, median in medians.items()}, "failed": {}}


def test_the_exponent_is_that_of_a_power_law() -> None:
    way = [(size, figures(square=3.0 * size**2, constant=5.0)) for size in (1, 2, 4, 8)]
    found = scaling.growth(way)
    assert found["square"]["exponent"] == pytest.approx(2.0)
    assert found["square"]["steps"] == pytest.approx([2.0, 2.0, 2.0])
    assert found["square"]["sizes"] == [1, 2, 4, 8]
    assert found["square"]["medians"] == [3.0, 12.0, 48.0, 192.0]
    assert found["constant"]["exponent"] == pytest.approx(0.0)


def test_fixed_costs_show_in_the_first_step() -> None:
    way = [(size, figures(a=100.0 + size)) for size in (1, 100, 10_000)]
    first, last = scaling.growth(way)["a"]["steps"]
    assert first < 0.2 < 0.8 < last


def test_growth_without_some_sizes() -> None:
    found = scaling.growth([(1, None), (2, figures(a=1.0, b=1.0)), (4, figures(a=2.0))])
    assert found["a"]["exponent"] == pytest.approx(1.0)
    assert (found["b"]["exponent"], found["b"]["steps"], found["b"]["sizes"]) == (None, [], [2])


@pytest.mark.parametrize("kind", ["layers", "folded", "plain"])
def test_networks_grow_as_asked(kind) -> None:
    workload = Workload("", img_size=8, batch_size=2)
    model = build(Growing(kind, "sandwich_cnn", width=2, depth=3), workload)
    assert model(make_batch(workload)[0]).shape == (2, 10)
    assert stages_of(2, 3) == (*[(64, 1)] * 3, (64, 2), *[(128, 1)] * 3, (128, 2))
    if kind == "plain":
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        assert [(module.out_channels, module.stride[0]) for module in convolutions] == list(stages_of(2, 3))
        assert sum(isinstance(module, nn.Linear) for module in model.modules()) == 1
    if kind == "layers":
        assert sum(isinstance(module, SandwichFourierConv2d) for module in model.modules()) == 8


def test_base_of_the_growth_is_the_trunk_of_the_small_network() -> None:
    assert stages_of(1, 1) == ((32, 1), (32, 2), (64, 1), (64, 2))


@needs_high_water_mark
def test_record_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(contestant: Growing, workload: Workload, task: str, limit: int) -> dict[str, list[int]]:
        asked.append((contestant.name, workload.img_size, contestant.depth, limit))
        if contestant.name == "sandwich_cnn" and contestant.depth == 2:
            raise RuntimeError("can't allocate memory: much\nmore")
        return {"held": [2**20], "step": [2**20], "peak": [2**21 * workload.img_size**2]}

    monkeypatch.setattr("benchmarks.contest.measure_memory", fake)
    out = tmp_path / "out"
    assert scaling.main([*QUICK, "--memory-limit", "1.5", "--out", str(out)]) == 0

    assert len(asked) == 6  # two contestants, three points: the base is measured once
    assert {limit for *_, limit in asked} == {int(1.5 * 2**30)}
    record = json.loads((out / f"{STEM}.json").read_text())
    points = {(point["img_size"], point["width"], point["depth"]): point for point in record["points"]}
    assert set(points) == {(8, 1, 1), (12, 1, 1), (8, 1, 2)}
    assert set(points[8, 1, 1]["time"]["figures"]) == {"sandwich_cnn", "plain"}
    assert set(points[8, 1, 2]["time"]["figures"]) == {"plain"}
    pixels = record["growth"]["pixels"]
    assert pixels["memory"]["sandwich_cnn"]["exponent"] == pytest.approx(1.0)
    assert pixels["time"]["plain"]["sizes"] == [64, 144]
    assert record["growth"]["depth"]["time"]["sandwich_cnn"]["sizes"] == [1]
    assert record["growth"]["width"]["time"]["plain"]["exponent"] is None
    assert record["machine"]["threads"] == 1
    printed = capsys.readouterr().out
    reason = "sandwich_cnn left out: RuntimeError: can't allocate memory: much"
    assert f"size 8, width 1, depth 2: {reason}" in printed
    assert "1.00 [1.00]" in printed
    svg = (out / f"{STEM}.svg").read_bytes()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert b"pixels of an image" in svg
    assert scaling.draw(record) == svg


@needs_high_water_mark
def test_a_network_over_the_limit_is_refused_memory() -> None:
    workload = Workload("", img_size=64, batch_size=64, threads=1)
    contestant = Growing("plain", "", width=1, depth=1)
    with pytest.raises(RuntimeError, match="memory"):
        memory.measure_memory(contestant, workload, limit=2**26)


@pytest.mark.parametrize("ending", ["json", "svg"])
def test_an_earlier_record_or_plot_is_left_alone(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{STEM}.{ending}").write_text("mine")
    monkeypatch.setattr(scaling, "measure", lambda *arguments: pytest.fail("measured"))
    assert scaling.main([*QUICK, "--out", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["no_such_model"], "no model is called 'no_such_model'"),
        (["resnet18"], "cannot be created"),
        (["--device", "tpu"], "device 'tpu' is not known here"),
    ],
)
def test_a_fault_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert scaling.main(["sandwich_cnn", *more, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert scaling.main([*QUICK, "--out", str(tmp_path / "out")]) == 1
    assert "timm_lipschitz[benchmarks]" in capsys.readouterr().err
