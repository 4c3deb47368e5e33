"""From an evaluation to its files: who the model is, on what data, by which settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from ..certification import ARITHMETIC
from ..data import ImageDataset
from ..models.loading import LoadedModel, weights_sha256
from ..records import (
    CertificationInfo,
    DatasetInfo,
    Hardware,
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
from .attacking import AttackedImages
from .plan import Plan
from .subject import Subject

__all__ = ["RunWriter"]


@dataclass(frozen=True)
class RunWriter:
    """Everything that a record states besides its figures."""

    loaded: LoadedModel
    dataset: ImageDataset
    evaluated: Selection
    attacked: Selection
    subject: Subject
    plan: Plan
    seed: int
    device: torch.device
    record_id: str | None
    clock: RunClock
    command: Sequence[str] | None
    run_dir: Path

    def write(self, work: AttackedImages, status: Literal["complete", "partial"]) -> None:
        """Writes the four files of the run. Raises `RecordError` and `RunDirectoryError` as `write_run`."""
        images, attacks = work.final_tables()
        model = self.loaded.model
        lipschitz = float(model.lipschitz) if self.subject.certifiable else None  # type: ignore[arg-type]
        settings = tuple(work.settings.values())
        record = make_record(
            record_id=self.record_id or make_record_id(self.loaded.name),
            model=ModelInfo(
                name=self.loaded.name,
                family=self.loaded.family,
                parameters=sum(parameter.numel() for parameter in model.parameters()),
                input_size=self.dataset.image_shape,
                num_classes=int(getattr(model, "num_classes", self.dataset.num_classes)),
                lipschitz=lipschitz,
                weights_sha256=weights_sha256(model),
            ),
            dataset=DatasetInfo(
                name=self.dataset.name,
                split=self.dataset.split,
                size=len(self.dataset),
                content_sha256=self.dataset.content_hash,
                evaluated=self.evaluated,
            ),
            certification=(
                CertificationInfo(arithmetic=ARITHMETIC, images=self.evaluated.count, lowered=work.lowered)
                if self.subject.certifiable
                else None
            ),
            threat_models=self.plan.threat_models,
            images=images,
            attack_table=attacks,
            attacks=settings,
            attacked=self.attacked if settings else None,
            seed=self.seed,
            numeric=NumericFlags(
                device=self.device.type,
                attack_dtype="float32",
                tf32_matmul=bool(torch.backends.cuda.matmul.allow_tf32),
                tf32_cudnn=torch.backends.cudnn.allow_tf32,
                autocast=torch.is_autocast_enabled(self.device.type),
            ),
            versions=software_versions(),
            training=_training_info(self.loaded.metadata),
            status=status,
        )
        accelerator = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        hardware = Hardware.detect(torch.get_num_threads(), accelerator)
        write_run(self.run_dir, record, images, attacks, RunInfo.from_clock(self.clock, hardware, self.command))


def _training_info(metadata: dict[str, str]) -> TrainingInfo | None:
    """What a checkpoint of `timm-lipschitz train` says of its training; None for weights from elsewhere."""
    if "recipe_name" not in metadata:
        return None
    return TrainingInfo(
        recipe=metadata["recipe_name"],
        seed=int(metadata["seed"]),
        tuned_on="validation" if metadata.get("tuned_on") == "validation" else "nothing",
        data_sha256=metadata.get("train_data"),
    )
