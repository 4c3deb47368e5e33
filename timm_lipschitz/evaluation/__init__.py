"""Evaluation: clean, certified and attacked accuracy of the same images, in one record."""

from .evaluate import DEFAULT_THREAT_MODELS, Progress, evaluate

__all__ = ["DEFAULT_THREAT_MODELS", "Progress", "evaluate"]
