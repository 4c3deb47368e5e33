"""Evaluation: clean, certified and attacked accuracy of the same images, in one record."""

from .estimate import Estimate, StageEstimate
from .evaluating import DEFAULT_THREAT_MODELS, Progress, dry_run, evaluate

__all__ = ["DEFAULT_THREAT_MODELS", "Estimate", "Progress", "StageEstimate", "dry_run", "evaluate"]
