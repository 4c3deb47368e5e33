"""Who is evaluated, on what, by which settings: the manifest before a run, the record after it."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import timm_lipschitz

from ..certification import ARITHMETIC
from ..data import ImageDataset
from ..errors import InvalidInputError
from ..layers.full_float32 import tf32_settings
from ..models.loading import LoadedModel, weights_sha256
from ..records import (
    CertificationInfo,
    DatasetInfo,
    Examples,
    Hardware,
    Manifest,
    ModelInfo,
    NumericFlags,
    RunClock,
    RunInfo,
    Selection,
    TrainingInfo,
    make_record,
    make_record_id,
    software_versions,
    write_run,
)
from ..threat_model import ThreatModel
from ..training import Recipe
from .merging import NetworkBounds, Verdicts
from .plan import Plan
from .run_folder import RunFolder

__all__ = ["make_manifest", "write_record"]


def make_manifest(
    loaded: LoadedModel,
    dataset: ImageDataset,
    plan: Plan,
    *,
    certifiable: bool,
    evaluated: Selection,
    attacked: Selection | None,
    audit: int,
    every_image: bool,
    seed: int,
    batch_size: int,
    device: torch.device,
    compiled: bool,
    record_id: str | None,
) -> Manifest:
    """The manifest of a run under the numeric settings that hold now."""
    model = loaded.model
    tf32_matmul, tf32_cudnn = tf32_settings()
    return Manifest(
        schema_version=1,
        id=record_id or make_record_id(loaded.name),
        model=ModelInfo(
            name=loaded.name,
            family=loaded.family,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            input_size=dataset.image_shape,
            num_classes=int(getattr(model, "num_classes", dataset.num_classes)),
            lipschitz=float(model.lipschitz) if certifiable else None,  # type: ignore[arg-type]
            weights_sha256=weights_sha256(model),
        ),
        model_class=f"{type(model).__module__}.{type(model).__qualname__}",
        structure_sha256=_structure_sha256(model),
        dataset=DatasetInfo(
            name=dataset.name,
            split=dataset.split,
            size=len(dataset),
            content_sha256=dataset.content_hash,
            evaluated=evaluated,
        ),
        training=_training_info(loaded.metadata),
        arithmetic=ARITHMETIC if certifiable else None,
        threat_models=tuple(map(str, plan.threat_models)),
        attack_at=tuple(map(str, plan.attack_at)),
        attacks=plan.attacks,
        attacked=attacked if plan.attacks else None,
        audit=audit,
        every_image=every_image,
        seed=seed,
        batch_size=batch_size,
        numeric=NumericFlags(
            device=device.type,
            attack_dtype="float32",
            tf32_matmul=tf32_matmul,
            tf32_cudnn=tf32_cudnn,
            autocast=torch.is_autocast_enabled(device.type),
            compiled=compiled,
        ),
        versions=software_versions(),
        code_sha256=_code_sha256(),
    )


def write_record(
    folder: RunFolder,
    verdicts: Verdicts,
    bounds: NetworkBounds,
    status: Literal["complete", "partial"],
    *,
    clock: RunClock,
    seconds: dict[str, float],
    elsewhere: float,
    device: torch.device,
    command: Sequence[str] | None,
    examples: Examples | None,
) -> None:
    """Writes the files of a run; the record is a function of the manifest and the chunks alone.

    ``seconds`` are those of the chunks by phase, ``elsewhere`` what of them other sessions and ranks spent. Raises
    `RecordError` and `RunDirectoryError` as `write_run`.
    """
    manifest = folder.manifest
    evaluated = manifest.dataset.evaluated.count
    record = make_record(
        record_id=manifest.id,
        model=manifest.model.model_copy(update={"lipschitz_rigorous": bounds.lipschitz}),
        dataset=manifest.dataset,
        certification=(
            CertificationInfo(
                arithmetic=manifest.arithmetic, images=evaluated, lowered=verdicts.lowered, asserted=bounds.asserted
            )
            if manifest.arithmetic is not None
            else None
        ),
        threat_models=[ThreatModel.parse(text) for text in manifest.threat_models],
        images=verdicts.images,
        attack_table=verdicts.attacks,
        attacks=verdicts.settings,
        attacked=manifest.attacked if verdicts.settings else None,
        seed=manifest.seed,
        numeric=manifest.numeric,
        versions=manifest.versions,
        training=manifest.training,
        status=status,
        examples=examples,
    )
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    info = RunInfo.from_clock(clock, Hardware.detect(torch.get_num_threads(), accelerator), seconds, command)
    sessions = folder.sessions()
    info = info.model_copy(
        update={
            "started": min([info.started, *(session.started for session in sessions)]),
            "total_seconds": info.total_seconds + elsewhere,
            "sessions": sessions,
        }
    )
    write_run(folder.path, record, verdicts.images, verdicts.attacks, info, examples)


def _structure_sha256(model: nn.Module) -> str:
    """Memory addresses, as in what a function prints as, are left out: they change from process to process."""
    return hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model)).encode()).hexdigest()


@cache
def _code_sha256() -> str:
    """SHA-256 over the names and contents of this package's source files."""
    root = Path(timm_lipschitz.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _training_settings(metadata: dict[str, str]) -> dict[str, Any]:
    """The recipe that a checkpoint names, and in what its weights are stored; nothing where it is none of ours."""
    try:
        recipe = Recipe(**json.loads(metadata["recipe"])).to_dict()
    except (KeyError, TypeError, ValueError, InvalidInputError):
        return {}
    precision = metadata.get("precision", "float32")
    return {
        **recipe,
        "stored": metadata.get("stored", "float32"),
        **({"precision": precision} if precision != "float32" else {}),
    }


def _training_info(metadata: dict[str, str]) -> TrainingInfo | None:
    """What a checkpoint of `timm-lipschitz train` says of its training; None for weights from elsewhere."""
    if "recipe_name" not in metadata:
        return None
    return TrainingInfo(
        recipe=metadata["recipe_name"],
        seed=int(metadata["seed"]),
        tuned_on="validation" if metadata.get("tuned_on") == "validation" else "nothing",
        data_sha256=metadata.get("train_data"),
        settings=_training_settings(metadata),
    )
