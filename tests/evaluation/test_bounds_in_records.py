"""What the certificates of a run rest on, in its record: the measured bound, and the modules taken on trust."""

import json
from pathlib import Path

import pytest
import safetensors
import torch
from evaluation.small_runs import Plain, labelled_as_predicted, sandwich
from leaderboard.boards import add_run
from records.sample_runs import sample_run
from torch import nn

from timm_lipschitz.certification import certify
from timm_lipschitz.certification.certifier import Certifier
from timm_lipschitz.cli._results import print_run
from timm_lipschitz.errors import CertificateViolation, RecordError
from timm_lipschitz.evaluation import evaluate
from timm_lipschitz.evaluation.merging import NetworkBounds, merge_bounds
from timm_lipschitz.layers import (
    ContractionHead,
    Flatten,
    LipschitzSequential,
    SandwichLinear,
    register_bound,
    registered,
)
from timm_lipschitz.leaderboard import build, check
from timm_lipschitz.leaderboard.site import render_run_page
from timm_lipschitz.records import CertifiedChunk


class Half(nn.Module):
    """A layer whose bound is registered: half of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(registered, "_RULES", {})
    register_bound(Half, lambda module, in_shape: 0.5)
    torch.manual_seed(0)
    return LipschitzSequential(
        Flatten(), SandwichLinear(36, 8), Half(), ContractionHead(8, 3), in_shape=(1, 6, 6)
    ).eval()


def test_a_record_holds_the_bound_that_its_radii_rest_on(tmp_path: Path) -> None:
    model = sandwich()
    images = labelled_as_predicted(model, count=30)
    run = evaluate(model, images, ["l2:0.1"], run_dir=tmp_path, batch_size=2)  # several chunks
    assert run.record.model.lipschitz_rigorous == certify(model, images.pixels(range(2))).lipschitz
    assert run.record.model.lipschitz_rigorous != run.record.model.lipschitz
    assert run.record.certification is not None
    assert run.record.certification.asserted == ()


def test_a_run_measures_the_bound_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []
    original = Certifier.__init__

    def counting(self: Certifier, model: nn.Module, *arguments: object) -> None:
        made.append(model)
        original(self, model, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Certifier, "__init__", counting)
    evaluate(sandwich(), labelled_as_predicted(sandwich(), count=30), ["l2:0.1"], run_dir=tmp_path, batch_size=2)
    assert len(list((tmp_path / "chunks").iterdir())) == 4
    assert len(made) == 1


def test_no_bound_without_certificates(tmp_path: Path) -> None:
    run = evaluate(Plain(), labelled_as_predicted(Plain()), ["l2:0.1"], run_dir=tmp_path)
    assert run.record.model.lipschitz_rigorous is None


def test_the_alarm_names_the_asserted_bound(trusted: nn.Module, tmp_path: Path) -> None:
    """A registered bound a tenth of the true one: the attack goes through, and the message says whose word it was."""
    register_bound(Half, lambda module, in_shape: 0.05)
    images = labelled_as_predicted(trusted, wrong=0)
    eps = float(certify(trusted, images.pixels(range(12)), images.labels).radius.max())
    with pytest.raises(CertificateViolation, match="float64 confirms") as violation:
        evaluate(trusted, images, [f"l2:{eps!r}"], ["pgdl2"], run_dir=tmp_path)
    message = str(violation.value)
    assert "most likely in what it takes on trust, the registered bound of 2 (Half: 0.05)" in message
    assert "please report it" not in message
    with safetensors.safe_open(tmp_path / "violation.safetensors", "pt") as file:
        assert json.loads(file.metadata()["asserted"]) == ["2 (Half: 0.05)"]


def chunk(lipschitz: float | None, *asserted: str) -> CertifiedChunk:
    columns = {"label": (0,), "prediction": (0,), "margin": (1.0,), "radius": (0.5,), "correct": (True,)}
    return CertifiedChunk(
        schema_version=1,
        run="0" * 64,
        number=0,
        index=(0,),
        seconds=0.0,
        lipschitz=lipschitz,
        asserted=asserted,
        **columns,  # type: ignore[arg-type]
    )


def test_the_largest_bound_of_the_chunks_counts() -> None:
    assert merge_bounds([chunk(1.5, "a"), chunk(1.75, "a"), chunk(1.25, "a")]) == NetworkBounds(1.75, ("a",))
    assert merge_bounds([chunk(None)]) == NetworkBounds(None, ())


@pytest.mark.parametrize("other", [("b",), (), ("a", "b"), ("b", "a")])
def test_chunks_that_take_different_things_on_trust_are_refused(other: tuple[str, ...]) -> None:
    named = f"asserted bounds of a, those of images 0 to 0 on {', '.join(other) or 'none'}"
    with pytest.raises(RecordError, match=named):
        merge_bounds([chunk(1.5, "a"), chunk(1.5, *other)])


def test_asserted_modules_are_shown_wherever_the_certificate_is(
    trusted: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluate(trusted, labelled_as_predicted(trusted), ["l2:0.1"], run_dir=tmp_path / "run", record_id="on-trust")
    module = "2 (Half: 0.5)"
    assert run.record.certification is not None
    assert run.record.certification.asserted == (module,)
    print_run(run)
    assert f"asserted, not proved: the bound of {module}" in capsys.readouterr().out
    page = render_run_page(run)
    assert "Asserted, not proved" in page
    assert module in page
    assert "Bound of the stored weights" not in page

    boards = tmp_path / "boards"
    add_run(tmp_path, boards, sample_run())
    add_run(tmp_path, boards, run)  # type: ignore[arg-type]
    build(boards)
    assert check(boards).asserted == {"noise/on-trust": (module,)}
    assert "| real, asserted |" in (boards / "noise" / "README.md").read_text()
