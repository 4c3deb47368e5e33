"""The arguments of a run, checked: which model on which images, and all that the manifest says of it."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attacks import checked_seed, frozen_for_attack
from ..data import ImageDataset, check_classes
from ..errors import InvalidInputError, UncertifiedWarning
from ..layers.full_float32 import full_float32
from ..models.loading import LoadedModel
from ..records import Manifest, Selection, safe_record_id
from ..threat_model import ThreatModel
from ._ranks import Ranks, own_device
from .plan import Plan, make_plan
from .subject import Subject, as_loaded
from .writing import make_manifest

__all__ = ["RunSetup"]


@dataclass(frozen=True)
class RunSetup:
    """The arguments of a run, checked."""

    loaded: LoadedModel
    dataset: ImageDataset
    plan: Plan
    evaluated: Selection
    attacked: Selection
    audit: int
    every_image: bool
    seed: int
    batch_size: int
    device: torch.device
    compiled: bool
    record_id: str | None

    @classmethod
    def checked(
        cls,
        *,
        model: nn.Module | LoadedModel | Callable[[Tensor], Tensor],
        dataset: ImageDataset,
        threat_models: Sequence[str | ThreatModel],
        attacks: Sequence[str],
        attack_at: Sequence[str | ThreatModel] | None,
        limit: int | None,
        attack_limit: int | None,
        audit: int,
        every_image: bool,
        seed: int,
        batch_size: int,
        device: str | torch.device | None,
        compile: bool,
        record_id: str | None,
    ) -> "RunSetup":
        loaded = as_loaded(model)
        plan = make_plan(threat_models, attacks, attack_at)
        for name, value, least in (
            ("limit", limit, 1),
            ("attack_limit", attack_limit, 1),
            ("audit", audit, 0),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InvalidInputError(f"{name} must be an integer of at least {least}, not {value!r}")
        checked_seed(seed)
        if record_id is not None:
            safe_record_id(record_id)
        if every_image and plan.knows_eps:
            raise InvalidInputError(
                "every_image is for attacks that look for the closest point, and there is none: add 'bisection' or "
                "'minimal-norm'"
            )
        evaluated = Selection.first(len(dataset) if limit is None else limit, len(dataset))
        attacked = Selection.first(min(attack_limit or evaluated.count, evaluated.count), len(dataset))
        if num_classes := getattr(loaded.model, "num_classes", None):
            check_classes(int(num_classes), dataset)
        where = own_device(device, Ranks.of_environment())
        return cls(
            loaded=loaded,
            dataset=dataset,
            plan=plan,
            evaluated=evaluated,
            attacked=attacked,
            audit=audit,
            every_image=every_image,
            seed=seed,
            batch_size=batch_size,
            device=where,
            compiled=compile,
            record_id=record_id,
        )

    @property
    def data(self) -> ImageDataset:
        """The images that are evaluated."""
        return self.dataset.subset(self.evaluated.count)

    @contextmanager
    def ready(self) -> Iterator[tuple[Manifest, Subject]]:
        """What run that is, and its model, in evaluation mode and full float32 while the run lasts.

        Warns of a model that says its explicit operators but has no certificates. Raises `InvalidInputError` for one
        that is to be compiled and cannot be.
        """
        model = self.loaded.model.to(self.device)
        with full_float32(self.device), frozen_for_attack(model):
            subject = Subject(model, self.device, self.compiled)
            if subject.refusal is not None and hasattr(model, "explicit"):
                warnings.warn(f"{subject.refusal}: attacked without certificates", UncertifiedWarning, stacklevel=4)
            subject.require_executable(self.data.pixels(range(min(2, len(self.data)))))
            manifest = make_manifest(
                self.loaded,
                self.dataset,
                self.plan,
                certifiable=subject.certifiable,
                evaluated=self.evaluated,
                attacked=self.attacked,
                audit=self.audit,
                every_image=self.every_image,
                seed=self.seed,
                batch_size=self.batch_size,
                device=self.device,
                compiled=self.compiled,
                record_id=self.record_id,
            )
            yield manifest, subject
