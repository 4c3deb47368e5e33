"""Training: recipes, the loop, checkpoints."""

from .loop import EpochFigures, evaluate_margins, train
from .recipes import RECIPES, Recipe, recipe_for

__all__ = ["RECIPES", "EpochFigures", "Recipe", "evaluate_margins", "recipe_for", "train"]
