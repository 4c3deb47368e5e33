"""A model as a repository of the hub: weights, configuration and card, which timm loads with ``hf-hub:``."""

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from timm_lipschitz.errors import InvalidInputError, RecordError
from timm_lipschitz.layers import NormalizedLinear
from timm_lipschitz.leaderboard.entries import require_publishable
from timm_lipschitz.leaderboard.hub import Upload
from timm_lipschitz.leaderboard.site.model_card import model_card
from timm_lipschitz.models import Trunk
from timm_lipschitz.models.loading import LoadedModel, weights_sha256
from timm_lipschitz.records import Record, Run
from timm_lipschitz.training.checkpoint import save_model

__all__ = ["model_upload"]

_TAGS = ["image-classification", "timm", "timm-lipschitz", "certified-robustness", "lipschitz"]


def model_upload(loaded: LoadedModel, repo_id: str, run: Run | None = None) -> Upload:
    """The repository of a model that timm can rebuild. Figures come from ``run`` alone, a run of these weights.

    Raises:
        InvalidInputError: a module that timm did not make, or that reads its images through a normalisation.
        RecordError: a run of other weights, or of the same weights under another bound; one that no leaderboard takes,
            since it is partial, of another split or of chosen images.
    """
    model: Any = loaded.model
    if run is not None:
        require_publishable(run)
    if not hasattr(model, "pretrained_cfg"):
        raise InvalidInputError(
            f"{loaded.name} is a {type(model).__name__}, not a model that timm builds from its configuration: only "
            "those can be loaded back from the hub"
        )
    digest = weights_sha256(model)
    if run is not None and run.record.model.weights_sha256 != digest:
        raise RecordError(
            f"the record {run.record.id} is of weights with SHA-256 {run.record.model.weights_sha256}, those of "
            f"{loaded.name} have {digest}: evaluate this model, or leave the record out"
        )
    bound = getattr(model, "lipschitz", None)
    if run is not None and run.record.model.lipschitz != bound:  # a scaling: another function of the same weights
        raise RecordError(
            f"the record {run.record.id} is of a network with Lipschitz bound {run.record.model.lipschitz}, "
            f"{loaded.name} has {bound}: evaluate this model, or leave the record out"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(model, folder, _arguments(model), {k: v for k, v in loaded.metadata.items() if k != "format"})
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    files["README.md"] = _card(loaded, repo_id, digest, run).encode()
    return Upload(repo_id, "model", files, f"{loaded.family}: weights and card")


def _arguments(model: Any) -> dict[str, Any]:
    """What a network of this package is built with beyond its classes, which timm's configuration has anyway."""
    if not isinstance(model, Trunk):
        return {}
    family = model.head.family
    arguments: dict[str, Any] = {"img_size": model.img_size, "in_chans": model.in_chans}
    if model.lipschitz is not None:
        arguments |= {"lipschitz": model.lipschitz, "normalized_head": family.classifier is NormalizedLinear}
    if family.pool_grid is not None:
        arguments["pool_grid"] = family.pool_grid
    return arguments


def _card(loaded: LoadedModel, repo_id: str, digest: str, run: Run | None) -> str:
    license_name = (getattr(loaded.model, "pretrained_cfg", None) or {}).get("license")
    data = ModelCardData(
        license=license_name,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=_TAGS,
        model_name=repo_id.split("/")[-1],
        eval_results=None if run is None else _results(run.record),
    )
    body = _card_without_figures(loaded, digest) if run is None else model_card(run)
    return f"---\n{data.to_yaml()}\n---\n{body}{_usage(repo_id)}"


def _results(record: Record) -> list[EvalResult]:
    """Clean and certified accuracy in percent, rounded down."""
    figures = [("clean accuracy", record.results.clean)]
    if record.certification is not None:
        figures += [(f"certified accuracy at {at.threat_model}", at.certified) for at in record.results.threat_models]
    figures += [
        (f"robust accuracy at {at.threat_model} under the attacks of the record", at.robust)
        for at in record.results.threat_models
        if at.robust is not None
    ]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=record.dataset.name,
            dataset_name=f"{record.dataset.name}, {record.dataset.split} split, {figure.total} images",
            metric_type="accuracy",
            metric_name=name,
            metric_value=float(figure.percent),
        )
        for name, figure in figures
    ]


def _card_without_figures(loaded: LoadedModel, digest: str) -> str:
    model: Any = loaded.model
    bound = f"- Nominal L2 Lipschitz bound: {float(model.lipschitz):g}\n" if hasattr(model, "explicit") else ""
    return (
        f"# {loaded.family}\n\n{bound}- Parameters: {sum(p.numel() for p in model.parameters()):,}\n"
        f"- SHA-256 of the weights: {digest}\n\nNot evaluated yet: no figure is known for these weights.\n"
    )


def _usage(repo_id: str) -> str:
    return f"""
## Use

```python
import timm
import timm_lipschitz

model = timm.create_model("hf-hub:{repo_id}", pretrained=True).eval()  # images (B, C, H, W) in [0, 1]
```

    timm-lipschitz certify hf-hub:{repo_id} --data NAME
"""
