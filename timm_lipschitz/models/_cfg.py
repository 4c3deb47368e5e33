"""What the families' ``default_cfgs`` have in common."""

from importlib.resources import files
from typing import Any

__all__ = ["cfg", "shipped"]


def cfg(**kwargs: Any) -> dict[str, Any]:
    """A pretrained cfg: pixels in [0, 1] without normalisation, a fixed input size, 10 classes by default."""
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "fixed_input_size": True,
        "mean": (0.0,),
        "std": (1.0,),
        "first_conv": "stages.0",
        "classifier": "head.fc",
        "license": "apache-2.0",
        "paper_ids": "arXiv:2301.11526",
        **kwargs,
    }


def shipped(name: str) -> str:
    """Path of a checkpoint in the package, ``name`` as timm writes it ("sandwich_mlp.mnist")."""
    return str(files("timm_lipschitz.models") / "checkpoints" / f"{name}.safetensors")
