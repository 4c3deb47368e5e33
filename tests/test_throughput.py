"""The throughput benchmark: contestants in turns, ratios, memory, one record a workload that is never overwritten."""

import importlib
import itertools
import json
import multiprocessing
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import console, contest, measuring, memory, reference, throughput
from benchmarks.contestants import TASKS, Contestant, Entrant, Workload, build, make_batch, prepare
from benchmarks.plain import Widths, make_plain, widths_of
from timm_lipschitz.errors import InvalidInputError

SMALL = Workload("sandwich_cnn", img_size=8, batch_size=2, threads=1)
QUICK = [
    "--img-size",
    "8",
    "--batch-size",
    "2",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--warm-up",
    "1",
    "--repeats",
    "3",
]


@pytest.fixture(autouse=True)
def _global_settings_stay():
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn.benchmark
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = cudnn
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A stand-in for the authors' checkout: its files, names and habits, none of its code."""
    folder = tmp_path / "authors"
    folder.mkdir()
    (folder / "layer.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Scaled(nn.Linear):\n"
        "    def __init__(self, p, q):\n"
        "        super().__init__(p, q)\n"
        "        self.register_parameter('alpha', None)\n"
        "    def forward(self, x):\n"
        "        if self.alpha is None:\n"
        "            self.alpha = nn.Parameter(torch.ones((), dtype=x.dtype))\n"
        "        return self.alpha * super().forward(x)\n"
    )
    (folder / "model.py").write_text(
        "from layer import *\n"
        "class KWL(nn.Sequential):\n"
        "    def __init__(self, config):\n"
        "        assert (config.layer, config.gamma, config.LLN) == ('Sandwich', 1.0, False)\n"
        "        inputs = config.in_channels * config.img_size**2\n"
        "        super().__init__(nn.Flatten(), Scaled(inputs, config.width * config.num_classes))\n"
        "class DNN(KWL):\n"
        "    pass\n"
    )
    return folder


def run(out: Path, *more: str) -> int:
    return throughput.main([*QUICK, "--out", str(out), *more])


# --- turns and figures


def test_every_round_runs_each_contestant_once_in_changing_order() -> None:
    calls: list[str] = []
    actions = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    ticks = itertools.count()

    def clock(action: measuring.Action) -> float:
        action()
        return float(next(ticks))

    times = measuring.alternate(actions, clock, repeats=8, seconds=60.0)

    rounds = [calls[i : i + 3] for i in range(0, 24, 3)]
    assert len(calls) == 24
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    for name in "abc":  # position i of each list is round i
        assert [int(time) // 3 for time in times[name]] == list(range(8))


@pytest.mark.parametrize(("repeats", "seconds", "rounds"), [(5, 0.0, 3), (2, 0.0, 2), (4, 60.0, 4)])
def test_rounds_end_with_the_time_but_not_before_three(repeats: int, seconds: float, rounds: int) -> None:
    times = measuring.alternate({"a": lambda: None}, lambda action: 1.0, repeats, seconds)
    assert times == {"a": [1.0] * rounds}


def test_ratios_are_of_medians_and_within_rounds() -> None:
    ours, rival = [1.0, 2.0, 30.0, 4.0], [2.0, 1.0, 10.0, 4.0]
    found = measuring.ratio(ours, rival)
    assert found["of_medians"] == 3.0 / 3.0
    assert found["per_round"] == {"median": 1.5, "min": 0.5, "max": 3.0, "quartiles": [0.875, 2.25]}


def test_distribution_of_one_value() -> None:
    assert measuring.distribution([2.0]) == {"median": 2.0, "min": 2.0, "max": 2.0, "quartiles": [2.0, 2.0]}


def test_a_contestant_that_cannot_run_does_not_stop_the_others() -> None:
    def broken() -> None:
        raise RuntimeError("no kernel for this\nand a long trace")

    ran = []
    ready, failed = measuring.warm_up({"a": lambda: broken, "b": lambda: lambda: ran.append(1)}, rounds=2)
    assert list(ready) == ["b"]
    assert len(ran) == 2
    assert failed == {"a": "RuntimeError: no kernel for this"}


def test_the_names_of_the_tasks() -> None:
    assert tuple(TASKS) == console.TASK_NAMES


def test_shown_figures_are_rounded_up() -> None:
    assert [console.up(1.21, 1), console.up(0.3001, 2), console.up(2000.0, 0)] == ["1.3", "0.31", "2,000"]


# --- contestants


@pytest.mark.parametrize("kind", ["layers", "folded", "plain"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_every_task_runs(kind, task: str, dtype: str) -> None:
    workload = Workload("sandwich_cnn", img_size=8, batch_size=2, dtype=dtype)
    prepare(Entrant(kind, "sandwich_cnn"), workload, task)()


def test_a_training_step_trains_every_parameter_and_drops_the_gradients() -> None:
    model = build(Entrant("layers", "sandwich_cnn"), SMALL)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    TASKS["training step"](model, *make_batch(SMALL), SMALL)()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_input_gradient_needs_no_gradient_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    model = build(Entrant("folded", "sandwich_cnn"), SMALL)
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, leaf: asked.append(leaf))
    TASKS["input gradient"](model, *make_batch(SMALL), SMALL)()
    assert asked[0].shape == (2, 3, 8, 8)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_both_forms_are_the_same_network() -> None:
    images, _ = make_batch(SMALL)
    layers, folded = (build(Entrant(kind, "sandwich_cnn"), SMALL).eval() for kind in ("layers", "folded"))
    with torch.no_grad():
        assert torch.allclose(layers(images), folded(images), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "size", "widths"),
    [
        ("sandwich_cnn", 32, Widths(((32, 1), (32, 2), (64, 1), (64, 2)), (512, 512))),
        ("sandwich_cnn_medium", 32, Widths(((64, 1), (64, 2), (128, 1), (128, 2)), (1024, 1024))),
        ("sandwich_mlp", 28, Widths((), (190, 190, 128))),
    ],
)
def test_the_plain_network_has_the_widths_of_the_model(model: str, size: int, widths: Widths) -> None:
    workload = Workload(model, img_size=size, batch_size=1)
    assert widths_of(build(Entrant("layers", model), workload)) == widths
    plain = build(Entrant("plain", model), workload)
    modules = [module for module in plain.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    made = [module.out_channels if isinstance(module, nn.Conv2d) else module.out_features for module in modules]
    assert made == [*(width for width, _ in widths.stages), *widths.hidden, 10]
    assert plain(make_batch(workload)[0]).shape == (1, 10)


def test_an_odd_size_is_halved_upwards() -> None:
    plain = make_plain(Widths(((4, 2), (4, 2)), (5,)), 1, 3, 7)
    assert plain(torch.zeros(1, 1, 7, 7)).shape == (1, 3)


def test_widths_of_another_module_are_not_known() -> None:
    with pytest.raises(InvalidInputError, match="Linear is no network of this package"):
        widths_of(nn.Linear(1, 1))


# --- the authors' code


def test_the_authors_network_trains_its_late_parameter(checkout: Path) -> None:
    contestant = Entrant("reference", "sandwich_cnn", str(checkout))
    model = build(contestant, SMALL)
    TASKS["training step"](model, *make_batch(SMALL), SMALL)()
    alpha = dict(model.named_parameters())["1.alpha"]
    assert alpha.item() != 1.0


def test_loading_the_authors_code_leaves_no_trace(checkout: Path) -> None:
    path, modules = list(sys.path), dict(sys.modules)
    reference.load_authors_model(checkout)
    assert sys.path == path
    assert sys.modules == modules


def test_a_module_called_layer_is_put_back(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("layer", None))
    monkeypatch.setitem(sys.modules, "layer", mine)
    reference.load_authors_model(checkout)
    assert sys.modules["layer"] is mine


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "layer.py").unlink(), "there is no layer.py"),
        (lambda folder: (folder / "model.py").write_text("KWL = 1\n"), "defines no DNN"),
        (
            lambda folder: (folder / "layer.py").write_text("import no_such_package\n"),
            "needs the package no_such_package",
        ),
        (lambda folder: (folder / "layer.py").write_text("def\n"), "layer.py cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_checkout_is_one_line(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage, message: str
) -> None:
    damage(checkout)
    assert run(tmp_path / "out", "--reference", str(checkout)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "layer" not in sys.modules
    assert not (tmp_path / "out").exists()


def test_the_authors_have_no_network_of_other_widths(checkout: Path) -> None:
    with pytest.raises(InvalidInputError, match="leave --reference out"):
        reference.make_reference(checkout, Widths((), (190, 190, 128)), 1, 10, 28)


# --- memory


needs_high_water_mark = pytest.mark.skipif(not memory.can_measure("cpu"), reason="needs Linux's resettable VmHWM")


def rises_of_known_size(block: int) -> tuple[int, int]:
    """The rise over two blocks one after the other, and over two at once."""

    def twice_one_after_the_other() -> None:
        for _ in range(2):
            torch.zeros(block, dtype=torch.uint8).add_(1)

    def both_at_once() -> None:
        first = torch.zeros(block, dtype=torch.uint8).add_(1)
        torch.zeros(block, dtype=torch.uint8).add_(1)
        del first

    cpu = torch.device("cpu")
    both_at_once()  # what torch loads at first use
    return memory.rise(twice_one_after_the_other, cpu), memory.rise(both_at_once, cpu)


@needs_high_water_mark
def test_the_rise_is_the_largest_amount_held_at_once() -> None:
    block = 64 * 2**20
    # A process of its own, as where it is used: in this one, what earlier tests left may be freed meanwhile.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        one, two = pool.submit(rises_of_known_size, block).result()
    assert block * 0.98 <= one <= block * 1.1
    assert block * 1.98 <= two <= block * 2.1


@needs_high_water_mark
def test_memory_of_a_training_step_grows_with_the_batch() -> None:
    contestant = Entrant("plain", "sandwich_cnn")
    small, large = (
        memory.measure_memory(contestant, Workload("sandwich_cnn", img_size=32, batch_size=size, threads=1))
        for size in (1, 129)
    )
    network = build(contestant, Workload("sandwich_cnn", img_size=32))
    weights = 4 * sum(parameter.numel() for parameter in network.parameters())
    activations = 128 * 4 * (32 * 32 * 32 + 32 * 16 * 16 + 64 * 16 * 16 + 64 * 8 * 8)
    for figures in (small, large):
        # Adam's two moments too; a few MB may lie in pages that the process held before
        assert 2.7 * weights <= min(figures["held"]) <= 3 * weights + 32 * 2**20
        assert min(figures["step"]) >= weights  # the gradients
        assert [held + step for held, step in zip(figures["held"], figures["step"], strict=True)] == figures["peak"]
    assert statistics.median(large["step"]) - statistics.median(small["step"]) >= activations


@needs_high_water_mark
def test_a_process_that_cannot_do_it_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"out of|invalid|memory|allocate"):
        memory.measure_memory(Entrant("plain", "sandwich_cnn"), Workload("sandwich_cnn", 16, 10**12, threads=1))


# --- the command


def test_a_record_holds_times_ratios_memory_and_what_they_were_measured_on(
    tmp_path: Path, checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = {"sandwich_cnn": 2 * 2**20, "plain": 2**20, "LBDN": 4 * 2**20, "sandwich_mlp": 2**20}

    def fake(contestant: Contestant, *_: object) -> dict[str, list[int]]:
        return {"held": [1], "step": [peaks[contestant.name] - 1], "peak": [peaks[contestant.name]]}

    monkeypatch.setattr(contest, "measure_memory", fake)
    monkeypatch.setattr(memory, "can_measure", lambda device: True)
    out = tmp_path / "out"
    typed = ["--reference", str(checkout), "--rival", "sandwich_mlp"]
    assert run(out, *typed) == 0

    (path,) = out.iterdir()
    assert path.name == "throughput-sandwich_cnn-8-b2-cpu1-float32.json"
    record = json.loads(path.read_text())
    assert record["command"] == "python benchmarks/throughput.py " + " ".join([*QUICK, "--out", str(out), *typed])
    assert record["workload"]["batch_size"] == 2
    assert record["machine"]["threads"] == 1
    assert record["versions"]["torch"]
    assert set(record["noise"]) == {"load_at_start", "load_at_end", "stolen_fraction"}
    assert record["contestants"]["plain"]["kind"] == "plain"
    assert record["contestants"]["plain"]["parameters"] > 0
    assert set(record["reference"]) == {"repository", "commit", "layer.py", "model.py"}
    assert set(record["tasks"]) == set(TASKS)
    forms = {task: measured["forms"] for task, measured in record["tasks"].items()}
    assert forms == {
        "training step": ["sandwich_cnn"],
        "inference": ["sandwich_cnn folded", "sandwich_cnn"],
        "input gradient": ["sandwich_cnn folded"],
    }
    for task, measured in record["tasks"].items():
        rival = "sandwich_mlp" if task == "training step" else "sandwich_mlp folded"
        assert set(measured["figures"]) == {*forms[task], "plain", "LBDN", rival}
        assert measured["failed"] == {}
        for entry in measured["ratios"]:
            of, to = (measured["figures"][entry[side]]["values"] for side in ("of", "to"))
            assert len(of) == len(to) == 3
            assert entry["of_medians"] == statistics.median(of) / statistics.median(to)
    to_lbdn = [entry["of_medians"] for entry in record["memory"]["ratios"] if entry["to"] == "LBDN"]
    assert to_lbdn == [0.5]
    printed = capsys.readouterr().out
    assert "/ plain" in printed
    assert "0.50 [0.50, 0.50]" in printed
    assert str(path) in printed


def test_an_earlier_record_is_left_alone_and_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    earlier = out / "throughput-sandwich_cnn-8-b2-cpu1-float32.json"
    earlier.write_text("mine")
    monkeypatch.setattr(throughput, "measure", lambda *arguments: pytest.fail("measured"))
    assert run(out, "--batch-size", "3") == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.read_text() for path in out.iterdir()] == ["mine"]


def test_options_that_repeat_are_combined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "measure", lambda *arguments: {})
    monkeypatch.setattr(throughput, "print_record", lambda record: None)
    typed = ["sandwich_cnn", "sandwich_mlp", "--batch-size", "4", "--dtype", "float64", "--dtype", "float32"]
    assert run(tmp_path, *typed) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == 8
    assert {"throughput-sandwich_mlp-8-b4-cpu1-float64.json", "throughput-sandwich_cnn-8-b2-cpu1-float32.json"} <= names


def test_a_rival_that_fails_is_named_and_the_rest_measured(
    tmp_path: Path, checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = checkout / "layer.py"
    layer.write_text(layer.read_text().replace("return self.alpha", "raise RuntimeError('shapes differ')  #"))
    assert run(tmp_path / "out", "--reference", str(checkout), "--task", "inference") == 0
    record = json.loads(next((tmp_path / "out").iterdir()).read_text())
    assert record["tasks"]["inference"]["failed"] == {"LBDN": "RuntimeError: shapes differ"}
    assert record["contestants"]["LBDN"]["parameters"] is None
    assert record["memory"] is None
    printed = capsys.readouterr().out
    assert "LBDN failed: RuntimeError: shapes differ" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["no_such_model"], "no model is called 'no_such_model'"),
        (["--rival", "no_such_model"], "no model is called 'no_such_model'"),
        (["resnet18"], "cannot be created with"),
        (["--device", "tpu"], "device 'tpu' is not known here"),
        (["--reference", "no/such/folder"], "no/such/folder: there is no layer.py"),
    ],
)
def test_a_fault_is_one_line_and_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run(tmp_path / "out", *more) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_count_is_a_whole_number_above_zero(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        throughput.main([f"--batch-size={value}"])
    assert ended.value.code == 2
    assert "is not a whole number above 0" in capsys.readouterr().err


@pytest.mark.cuda
def test_cuda_times_and_memory(tmp_path: Path) -> None:
    out = tmp_path / "out"
    typed = ["--img-size", "8", "--batch-size", "2", "--device", "cuda", "--repeats", "3", "--out", str(out)]
    assert throughput.main(typed) == 0
    record = json.loads((out / "throughput-sandwich_cnn-8-b2-cuda-float32.json").read_text())
    for measured in [*record["tasks"].values(), record["memory"]]:
        assert measured["failed"] == {}
        assert all(figure["min"] > 0 for figure in measured["figures"].values())
    assert record["machine"]["accelerator"]


@pytest.mark.cuda
def test_the_cuda_clock_waits_for_the_work() -> None:
    device = torch.device("cuda")
    clock = measuring.make_clock(device)
    small, large = torch.rand(16, 16, device=device), torch.rand(8192, 8192, device=device)
    times = [clock(lambda matrix=matrix: matrix @ matrix) for matrix in (large, small, large)]
    assert times[2] > times[1] > 0


@pytest.mark.cuda
def test_the_rise_on_cuda() -> None:
    block = 64 * 2**20
    assert memory.rise(lambda: torch.zeros(block, dtype=torch.uint8, device="cuda"), torch.device("cuda")) == block
