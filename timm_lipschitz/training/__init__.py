"""Training: recipes, the loop on one process or several, checkpoints."""

from .execution import Execution
from .loop import EpochFigures, evaluate_margins, train
from .recipes import RECIPES, Recipe, recipe_for

__all__ = ["RECIPES", "EpochFigures", "Execution", "Recipe", "evaluate_margins", "recipe_for", "train"]
