"""Recipes: everything a training run depends on besides the data and the seed.

The shipped checkpoints were trained by the recipes of the same name, or where there is none by that of their data set:
one budget for every convolutional family, so that a leaderboard compares networks and not recipes. All were chosen on
the validation split alone. Data sets for which nothing has been tuned here take the recipe of the sandwich layer's
paper (`paper_recipe`).
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import nn

from ..errors import InvalidInputError
from ..losses import MarginCrossEntropy, multi_margin

__all__ = ["RECIPES", "Recipe", "name_of", "paper_recipe", "recipe_for"]


@dataclass(frozen=True)
class Recipe:
    """One training run's settings.

    Attributes:
        loss: ``"cross_entropy"`` with margin offset and temperature, or ``"multi_margin"``.
        margin: radius in pixel units that the loss asks for; the offset on the logits is ``sqrt2 lipschitz margin``.
        temperature: of the cross entropy.
        lipschitz: bound of the network, pixels -> logits; None for a plain network, whose loss takes it for 1.
        epochs, batch_size, optimizer, learning_rate, weight_decay, schedule: as timm's factories name them; the
            learning rate rises linearly over ``warmup_epochs`` and falls to 0 over the others, updated every step.
            ``"piecewise"`` is the schedule of the sandwich layer's paper (`PiecewiseLinear`), without a warm-up.
        ema_decay: decay of timm's ModelEmaV3, or None for none; the average is what is evaluated and saved.
        padding: pixels of a random shift, 0 for none; ``flip`` mirrors at random.
        clip_grad: largest gradient norm, or None.
        tuned_on: the split that these settings were chosen on.
    """

    loss: Literal["cross_entropy", "multi_margin"] = "cross_entropy"
    margin: float = 1.0
    temperature: float = 0.25
    lipschitz: float | None = 1.0
    epochs: int = 20
    batch_size: int = 256
    optimizer: str = "adam"
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    schedule: Literal["cosine", "poly", "piecewise"] = "poly"
    warmup_epochs: float = 1.0
    ema_decay: float | None = None
    padding: int = 0
    flip: bool = False
    clip_grad: float | None = None
    tuned_on: Literal["validation", "nothing"] = "nothing"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("padding", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise InvalidInputError(f"Recipe: {name} must be a whole number from {least} up, not {value!r}")
        for name in ("margin", "lipschitz", "learning_rate", "temperature", "clip_grad"):
            value = getattr(self, name)
            if name in ("lipschitz", "clip_grad") and value is None:
                continue
            if not 0 < value < math.inf:
                raise InvalidInputError(f"Recipe: {name} must be positive and finite, not {value!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise InvalidInputError(f"Recipe: weight_decay must not be negative, not {self.weight_decay!r}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InvalidInputError(f"Recipe: ema_decay must lie in [0, 1), not {self.ema_decay!r}")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InvalidInputError(
                f"Recipe: warmup_epochs {self.warmup_epochs!r} must lie in [0, epochs={self.epochs})"
            )
        if self.schedule not in ("cosine", "poly", "piecewise"):
            raise InvalidInputError(
                f"Recipe: schedule {self.schedule!r} is unknown; use 'cosine', 'poly' or 'piecewise'"
            )
        if self.loss not in ("cross_entropy", "multi_margin"):
            raise InvalidInputError(f"Recipe: loss {self.loss!r} is unknown; use 'cross_entropy' or 'multi_margin'")

    def make_loss(self) -> nn.Module:
        """The loss module of this recipe, logits (B, K) and labels (B,) -> scalar."""
        bound = 1.0 if self.lipschitz is None else self.lipschitz
        offset = 2**0.5 * bound * self.margin
        if self.loss == "multi_margin":
            return multi_margin(offset)
        return MarginCrossEntropy(offset, self.temperature * bound)

    def with_overrides(self, **changes: Any) -> "Recipe":
        """A copy with every change that is not None; a recipe that was changed is tuned on nothing.

        Fewer epochs than the recipe's shorten the warm-up in proportion, unless ``warmup_epochs`` is given too.
        """
        given = {name: value for name, value in changes.items() if value is not None and value != getattr(self, name)}
        if not given:
            return self
        warmup = self.warmup_epochs * min(1.0, given.get("epochs", self.epochs) / self.epochs)
        return replace(self, **{"tuned_on": "nothing", "warmup_epochs": warmup, **given})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


RECIPES: dict[str, Recipe] = {
    "sandwich_mlp.mnist": Recipe(epochs=40, ema_decay=0.99, tuned_on="validation"),
    "sandwich_cnn.mnist": Recipe(margin=1.12, epochs=40, ema_decay=0.99, tuned_on="validation"),
    "sandwich_bcop_cnn.mnist": Recipe(margin=1.6, epochs=12, ema_decay=0.99, tuned_on="validation"),
    "sandwich_bcop_cnn.cifar10_jpeg": Recipe(
        temperature=0.5, epochs=24, ema_decay=0.99, flip=True, tuned_on="validation"
    ),
    "mnist": Recipe(margin=1.2, epochs=6, ema_decay=0.99, tuned_on="validation"),
    "fashion_mnist": Recipe(margin=0.8, epochs=6, ema_decay=0.99, tuned_on="validation"),
    "cifar10_jpeg": Recipe(temperature=0.5, epochs=12, ema_decay=0.99, flip=True, tuned_on="validation"),
}


# Data sets with colour images of small objects: the paper's, and one that is read in their place.
_PAPERS = ("cifar10", "cifar10_jpeg", "cifar100", "tiny_imagenet")


def paper_recipe(
    lipschitz: float | None = 1.0,
    *,
    loss: Literal["cross_entropy", "multi_margin"] = "cross_entropy",
    epochs: int = 100,
) -> Recipe:
    """How Wang and Manchester (2023) trained on CIFAR-10, CIFAR-100 and Tiny-ImageNet, for any bound.

    Adam, learning rate 0.01 on a piecewise linear schedule, batch 256, 100 epochs (their certified networks: 400). The
    offset of the loss does not grow with the bound: on the logits it is 1.5 sqrt2 in the cross entropy, at temperature
    0.25, and 0.5 in the multi-margin loss, which they took for CIFAR-10 under attack. Their random changes of colour
    are left out, and their random shifts reflect the border where these pad it with zeros.
    """
    bound = 1.0 if lipschitz is None else lipschitz
    return Recipe(
        loss=loss,
        margin=(0.5 / 2**0.5 if loss == "multi_margin" else 1.5) / bound,
        temperature=0.25 / bound,
        lipschitz=lipschitz,
        epochs=epochs,
        batch_size=256,
        learning_rate=1e-2,
        schedule="piecewise",
        warmup_epochs=0.0,
        padding=4,
        flip=True,
    )


def name_of(recipe: Recipe, otherwise: str) -> str:
    """What `RECIPES` calls a recipe; a plain network's, which has no bound, goes by that of the others.

    A recipe that is not there is called ``otherwise``, with "-changed" behind it where that is the name of another one.
    """
    for name, known in RECIPES.items():
        if recipe == (replace(known, lipschitz=None) if recipe.lipschitz is None else known):
            return name
    return f"{otherwise}-changed" if otherwise in RECIPES else otherwise


def recipe_for(model: str, data: str, name: str | None = None) -> Recipe:
    """The recipe of a model on a data set, or the one of `RECIPES` that is called ``name``.

    Without a name: that of the shipped checkpoint, for a convolutional network that of the data set, the paper's, or
    the default one. Raises `InvalidInputError` for a name that there is not.
    """
    family = model.split(".")[0]
    if name is not None and name not in RECIPES:
        raise InvalidInputError(f"no recipe is called {name!r}; there are {', '.join(sorted(RECIPES))}")
    recipe = RECIPES.get(name or f"{family}.{data}")
    if recipe is None and not family.startswith(("sandwich_mlp", "sandwich_dnn")):
        recipe = RECIPES.get(data)
    if recipe is None:
        recipe = paper_recipe() if data in _PAPERS else Recipe()
        if family.startswith("sandwich_dnn") and data in _PAPERS:
            recipe = replace(recipe, epochs=400)
    return replace(recipe, lipschitz=None) if family.startswith("plain_cnn") else recipe
