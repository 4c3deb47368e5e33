"""Networks with a built-in Lipschitz bound for timm, certified and attacked image by image.

    import timm, timm_lipschitz
    model = timm.create_model("sandwich_cnn.mnist", pretrained=True)

Importing the package registers its models with timm, whichever of the two is imported first, and costs next to nothing:
timm and torch are imported when something needs them (see ``_registration``). The names below are loaded at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._registration import register_models_with_timm

if TYPE_CHECKING:
    from .certification import Certificates, Certifier, certify
    from .data import load_dataset
    from .evaluation import dry_run, evaluate
    from .folding import fold
    from .layers import (
        ContractionHead,
        Flatten,
        LipschitzLinear,
        LipschitzSequential,
        NormalizedLinear,
        Rescale,
        SandwichConv2d,
        SandwichFourierConv2d,
        SandwichLinear,
        register_bound,
    )
    from .models import load_model
    from .threat_model import ThreatModel

__version__ = "0.1.0"

__all__ = [
    "Certificates",
    "Certifier",
    "ContractionHead",
    "Flatten",
    "LipschitzLinear",
    "LipschitzSequential",
    "NormalizedLinear",
    "Rescale",
    "SandwichConv2d",
    "SandwichFourierConv2d",
    "SandwichLinear",
    "ThreatModel",
    "__version__",
    "certify",
    "dry_run",
    "evaluate",
    "fold",
    "load_dataset",
    "load_model",
    "register_bound",
]

_MODULE_OF = {
    "Certificates": "certification",
    "Certifier": "certification",
    "ContractionHead": "layers",
    "Flatten": "layers",
    "LipschitzLinear": "layers",
    "LipschitzSequential": "layers",
    "NormalizedLinear": "layers",
    "Rescale": "layers",
    "SandwichConv2d": "layers",
    "SandwichFourierConv2d": "layers",
    "SandwichLinear": "layers",
    "ThreatModel": "threat_model",
    "certify": "certification",
    "dry_run": "evaluation",
    "evaluate": "evaluation",
    "fold": "folding",
    "load_dataset": "data",
    "load_model": "models",
    "register_bound": "layers",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_models_with_timm()
