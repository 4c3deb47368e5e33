"""A small run built from random rows: every status occurs, and the order certified <= attacked <= clean holds."""

from dataclasses import dataclass, replace

import numpy as np

from timm_lipschitz.records import (
    AttackSettings,
    AttackTable,
    CertificationInfo,
    DatasetInfo,
    Hardware,
    ImageTable,
    ModelInfo,
    NumericFlags,
    Record,
    RunInfo,
    Selection,
    TrainingInfo,
    certified_mask,
    make_record,
)
from timm_lipschitz.threat_model import ThreatModel

THREAT_MODELS = ("l2:36/255", "l2:1.0", "l2:1.58")
ATTACKS = ("autoattack", "torchattacks.PGDL2")
INPUT_SIZE = (1, 28, 28)


@dataclass(frozen=True)
class Sample:
    record: Record
    images: ImageTable
    attacks: AttackTable
    run_info: RunInfo

    def with_record(self, **changes: object) -> "Sample":
        return replace(self, record=self.record.model_copy(update=changes))


def sample_images(count: int = 40, seed: int = 0) -> ImageTable:
    generator = np.random.default_rng(seed)
    generator.integers(0, 10, count)
    label = np.random.default_rng(0).integers(0, 10, count)  # runs of other seeds are of the same images
    correct = generator.random(count) < 0.9
    correct[0], correct[1] = True, False  # both kinds are always there
    radius = np.where(correct, generator.uniform(0.01, 2.5, count), 0.0)
    return ImageTable(
        index=np.arange(count),
        label=label,
        prediction=np.where(correct, label, (label + 1) % 10),
        margin=np.where(correct, radius * np.sqrt(2), -0.5),
        radius=radius,
        correct=correct,
    )


def sample_attacks(images: ImageTable, threat_model: str, attack: str, count: int, seed: int = 0) -> AttackTable:
    """Rows of one attack on the first ``count`` images; half of the undecided ones break, just inside eps."""
    generator = np.random.default_rng([seed, *map(ord, attack)])  # what breaks at one eps breaks at every larger one
    model = ThreatModel.parse(threat_model)
    certified = certified_mask(images, model, int(np.prod(INPUT_SIZE)))[:count]
    broken = images.correct[:count] & ~certified & (generator.random(count) < 0.5)
    status = np.select(
        [~images.correct[:count], certified, broken], ["misclassified", "certified", "broken"], default="standing"
    )
    distance = np.where(broken, model.radius * (1 - 1e-6), np.nan)
    return AttackTable.of_attack(images.index[:count], threat_model, attack, status, distance)


def sample_run_info(**changes: object) -> RunInfo:
    fields: dict[str, object] = {
        "schema_version": 1,
        "command": ("timm-lipschitz", "evaluate", "sandwich_cnn.mnist"),
        "host": "laptop",
        "hardware": Hardware(processor="CPU", cores=2, threads=2, memory_bytes=8 << 30),
        "started": "2026-01-31T12:00:00Z",
        "finished": "2026-01-31T12:01:01Z",
        "seconds": {"certify": 1.5, "attack": 59.25},
        "total_seconds": 61.0,
    }
    return RunInfo.model_validate(fields | changes)


def sample_model(**changes: object) -> ModelInfo:
    fields: dict[str, object] = {
        "name": "sandwich_cnn.mnist",
        "family": "sandwich_cnn",
        "parameters": 3_000_000,
        "input_size": INPUT_SIZE,
        "num_classes": 10,
        "lipschitz": 1.0,
        "weights_sha256": "a" * 64,
    }
    return ModelInfo.model_validate(fields | changes)


def sample_run(
    count: int = 40,
    attacked: int = 20,
    seed: int = 0,
    size: int | None = None,
    record_id: str = "sandwich_cnn.mnist",
    threat_models: tuple[str, ...] = THREAT_MODELS,
    attacks: tuple[str, ...] = ATTACKS,
    status: str = "complete",
    model: ModelInfo | None = None,
) -> Sample:
    size = count if size is None else size
    model = model or sample_model()
    if seed and model.weights_sha256 == "a" * 64:  # other margins are those of other weights
        model = model.model_copy(update={"weights_sha256": f"{seed:064x}"})
    images = sample_images(count, seed)
    tables = [sample_attacks(images, name, attack, attacked, seed) for name in threat_models for attack in attacks]
    table = AttackTable.concatenate(tables)
    record = make_record(
        record_id=record_id,
        model=model,
        dataset=DatasetInfo(
            name="mnist", split="test", size=size, content_sha256="b" * 64, evaluated=Selection.first(count, size)
        ),
        certification=CertificationInfo(arithmetic="real", images=count),
        threat_models=[ThreatModel.parse(name) for name in threat_models],
        images=images,
        attack_table=table,
        attacks=[AttackSettings(name=name, seed=seed, settings={"version": "standard"}) for name in attacks],
        attacked=Selection.first(attacked, size) if attacks else None,
        seed=seed,
        numeric=NumericFlags(device="cpu", attack_dtype="float32", tf32_matmul=False, tf32_cudnn=False, autocast=False),
        versions={"python": "3.11.7", "torch": "2.15.0"},
        training=TrainingInfo(recipe="sandwich_cnn.mnist", seed=0, tuned_on="validation", settings={"epochs": 40}),
        status=status,  # type: ignore[arg-type]
    )
    return Sample(record=record, images=images, attacks=table, run_info=sample_run_info())
