"""torchattacks 3.5.1: one row an attack, its settings scaled to eps, its defects handled beside it.

The library's defaults are demonstrations (10 steps, a step size for one eps). Here iterative attacks take enough steps
to be worth reporting, of size 2.5 eps / steps (Madry et al. 2018); what ran is in the settings of every result.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from timm_lipschitz.attacks._plan import Cost, Kind, NamedAttack, Perturb, Plan, Problem, Setting, SubAttack
from timm_lipschitz.attacks._square import P_INIT, square_obstacle, square_window
from timm_lipschitz.errors import AttackError
from timm_lipschitz.threat_model import NORMS, Norm

Options: TypeAlias = dict[str, Setting]
Construct: TypeAlias = Callable[[nn.Module, Options], Any]
CostOf: TypeAlias = Callable[[Problem, Options], Cost]

_LIBRARY: Final = "torchattacks"
_LIBRARY_NORMS: Final[dict[Norm, str]] = {"l2": "L2", "linf": "Linf"}
_STEPS: Final = 50
_APGD_STEPS: Final = 100
_QUERIES: Final = 5000
_MOST_CLASSES: Final = 10  # 9 targets, as in AutoAttack

# Farther than any two images with pixels in [0, 1]: FAB then keeps every perturbation that it finds.
_NO_LIMIT: Final = 1e10

# CW minimises |delta|^2 + c max(f_y - max f_j, 0) and torchattacks leaves out the search for c: each c is one run. On a
# 1-Lipschitz network c = 1 reaches no farther than sqrt(2)/2, c = 10 ten times as far.
_CW_WEIGHTS: Final = (1, 10)
_CW_STEPS: Final = 200
_CW_LEARNING_RATE: Final = 0.1
_CW_BOX: Final = 0.999

_AUTOATTACK_STEPS: Final = 10  # fixed by torchattacks' AutoAttack
_POPULATION: Final = 400  # of OnePixel, as its authors have it (Su et al. 2019)
_PIXLE_RESTARTS: Final = 20
_PIXLE_PATCHES: Final = 10
_SPARSEFOOL_STEPS: Final = 10
_JSMA_SHARE: Final = 0.1  # of the pixels that it may change
_JSMA_MOST_PIXELS: Final = 64 * 64  # it builds several matrices of pixels times pixels


def _torchattacks_row(
    name: str,
    norms: tuple[Norm, ...],
    kind: Kind,
    class_name: str,
    options: Callable[[Problem], Options | Sequence[Options]],
    construct: Construct | None = None,
    cost: CostOf | None = None,
) -> NamedAttack:
    """A row that runs ``class_name`` once with each of the ``options``.

    ``construct`` replaces its constructor; ``cost`` is given where the names of the options do not tell it.
    """

    def build(problem: Problem) -> Plan:
        version = _installed_version()
        several = options(problem)
        runs = [several] if isinstance(several, dict) else several
        costs = [None if cost is None else cost(problem, run) for run in runs]
        sub_attacks = (_sub_attack(name, class_name, *each, construct) for each in zip(runs, costs, strict=True))
        return Plan(_LIBRARY, version, tuple(sub_attacks))

    return NamedAttack(name, norms, kind, build)


def _sub_attack(
    name: str, class_name: str, options: Options, cost: Cost | None, construct: Construct | None
) -> SubAttack:
    def start(model: nn.Module, device: torch.device) -> Perturb:
        if construct is not None:
            attack = construct(model, options)
        else:
            attack = getattr(importlib.import_module(_LIBRARY), class_name)(model, **options)

        def perturb(images: Tensor, labels: Tensor, seed: int) -> Tensor:
            for part in (attack, *getattr(getattr(attack, "_autoattack", None), "attacks", ())):
                if hasattr(part, "seed"):  # APGD, APGDT, FAB and Square seed torch themselves
                    part.seed = seed
            with torch.enable_grad():  # the library relies on the caller's gradient mode
                return attack(images, labels)

        return perturb

    return SubAttack(name, {"class": class_name, **options}, start, cost)


def _installed_version() -> str:
    if importlib.util.find_spec(_LIBRARY) is None:
        raise AttackError("torchattacks is not installed: pip install 'timm-lipschitz[attacks]'.")
    return metadata.version(_LIBRARY)


# ---- options of each attack ----------------------------------------------------------------------------------------


def _fgsm(problem: Problem) -> Options:
    return {"eps": problem.threat_model.radius}


def _pgd(problem: Problem) -> Options:
    eps = problem.threat_model.radius
    return {"eps": eps, "alpha": 2.5 * eps / _STEPS, "steps": _STEPS, "random_start": True}


def _mifgsm(problem: Problem) -> Options:
    eps = problem.threat_model.radius
    return {"eps": eps, "alpha": 2.5 * eps / _STEPS, "steps": _STEPS, "decay": 1.0}


def _stepped(**more: Setting) -> Callable[[Problem], Options]:
    """Options of an iterative L-infinity attack: steps of 2.5 eps / steps, and what is its own."""

    def options(problem: Problem) -> Options:
        eps = problem.threat_model.radius
        return {"eps": eps, "alpha": 2.5 * eps / _STEPS, "steps": _STEPS, **more}

    return options


def _ffgsm(problem: Problem) -> Options:
    eps = problem.threat_model.radius
    return {"eps": eps, "alpha": 1.25 * eps}  # Wong et al. 2020: from a random start, one step of 1.25 eps


def _spsa(problem: Problem) -> Options:
    return {"eps": problem.threat_model.radius, "delta": 0.01, "lr": 0.01, "nb_iter": _STEPS, "nb_sample": 128}


def _spsa_cost(problem: Problem, options: Options) -> Cost:
    return Cost(2 * int(options["nb_iter"]) * int(options["nb_sample"]))  # fewer calls, each of many samples


def _three_channels(name: str, options: Callable[[Problem], Options]) -> Callable[[Problem], Options]:
    """Options of an attack whose kernels are made for three channels."""

    def checked(problem: Problem) -> Options:
        if problem.image_shape[0] != 3:
            raise AttackError(
                f"{name} smooths gradients by kernels for 3 channels, the images have {problem.image_shape[0]}: use "
                "difgsm or vnifgsm."
            )
        return options(problem)

    return checked


def _patchwise(problem: Problem) -> Options:
    return {"max_epsilon": problem.threat_model.radius, "num_iter_set": _STEPS}


def _ead(problem: Problem) -> Options:
    return {
        "kappa": 0,
        "lr": 0.01,
        "binary_search_steps": 9,
        "max_iterations": max(10, 2 * _STEPS),
        "positive_logits": True,
    }


def _apgd(problem: Problem) -> Options:
    return {**_norm_and_eps(problem), "steps": _APGD_STEPS, "n_restarts": 1, "loss": "ce"}


def _apgdt(problem: Problem) -> Options:
    if problem.num_classes < 4:
        raise AttackError(
            f"apgdt needs 4 classes for its loss (targeted DLR), the model has {problem.num_classes}: use apgd or fab."
        )
    classes = min(_MOST_CLASSES, problem.num_classes)
    return {**_norm_and_eps(problem), "steps": _APGD_STEPS, "n_restarts": 1, "n_classes": classes}


def _fab(problem: Problem) -> Options:
    norm = _LIBRARY_NORMS[problem.threat_model.norm]
    return {"norm": norm, "eps": _NO_LIMIT, "steps": _APGD_STEPS, "n_restarts": 1, "n_classes": problem.num_classes}


def _square(problem: Problem) -> Options:
    norm = problem.threat_model.norm
    _, height, width = problem.image_shape
    obstacle = square_obstacle(norm, height, width)
    window = square_window(norm, height, width)
    if obstacle is None and window > min(height, width):
        obstacle = f"its first window of {window} pixels is larger than {height}x{width} images"
    if obstacle is not None:
        raise AttackError(f"square cannot run: {obstacle}. Use autoattack, or apgd and fab.")
    return {**_norm_and_eps(problem), "n_queries": _QUERIES, "n_restarts": 1, "p_init": P_INIT}


def _deepfool(problem: Problem) -> Options:
    return {"steps": _STEPS, "overshoot": 0.02}


def _cw(problem: Problem) -> list[Options]:
    return [
        {"c": c, "kappa": 0, "steps": _CW_STEPS, "lr": _CW_LEARNING_RATE, "box": _CW_BOX, "positive_logits": True}
        for c in _CW_WEIGHTS
    ]


def _autoattack_10step(problem: Problem) -> Options:
    if problem.num_classes < 4:
        raise AttackError(
            "torchattacks-autoattack-10step needs 4 classes for its loss (targeted DLR), the model has "
            f"{problem.num_classes}: use autoattack, which is adapted to fewer."
        )
    return {**_square(problem), "steps": _AUTOATTACK_STEPS, "n_classes": problem.num_classes}


def _autoattack_10step_cost(problem: Problem, options: Options) -> Cost:
    steps, targets = _AUTOATTACK_STEPS + 2, problem.num_classes - 1
    return Cost(steps + steps * targets + 2 * steps * targets + int(options["n_queries"]) + 5)


def _onepixel(problem: Problem) -> Options:
    return {"pixels": 1, "steps": _STEPS, "popsize": _POPULATION, "inf_batch": problem.batch_size}


def _onepixel_cost(problem: Problem, options: Options) -> Cost:
    population, at_once = int(options["popsize"]), int(options["inf_batch"])
    calls = -(-population // at_once) + 1  # a generation, and a look at its best
    return Cost((_STEPS + 2) * calls, at_once=min(population, at_once))


def _pixle(problem: Problem) -> Options:
    _, height, width = problem.image_shape
    if height != width:
        raise AttackError(
            f"pixle takes rows for columns, so images must be square, not {height}x{width}: use onepixel or sparsefool."
        )
    return {"restarts": _PIXLE_RESTARTS, "max_iterations": _PIXLE_PATCHES}


def _pixle_cost(problem: Problem, options: Options) -> Cost:
    return Cost(2 * int(options["restarts"]) * int(options["max_iterations"]) + 1, at_once=1)


def _sparsefool(problem: Problem) -> Options:
    return {"steps": _SPARSEFOOL_STEPS, "lam": 3, "overshoot": 0.02, "deepfool_steps": _STEPS}


def _sparsefool_cost(problem: Problem, options: Options) -> Cost:
    calls = int(options["steps"]) * (int(options["deepfool_steps"]) + 2)
    return Cost(calls, at_once=1, gradients=problem.num_classes)


def _deepfool_cost(problem: Problem, options: Options) -> Cost:
    return Cost(int(options["steps"]), at_once=1, gradients=problem.num_classes)


def _jsma(problem: Problem) -> Options:
    pixels = math.prod(problem.image_shape)
    if pixels > _JSMA_MOST_PIXELS:
        raise AttackError(
            f"jsma compares all pairs of an image's {pixels} values, at most {_JSMA_MOST_PIXELS} fit into memory: use "
            "sparsefool or onepixel."
        )
    return {"theta": 1.0, "gamma": _JSMA_SHARE, "target": "runner-up"}


def _jsma_cost(problem: Problem, options: Options) -> Cost:
    rounds = math.ceil(math.prod(problem.image_shape) * float(options["gamma"]) / 2)
    return Cost(2 * rounds + 2, at_once=1, gradients=problem.num_classes)


def _norm_and_eps(problem: Problem) -> Options:
    return {"norm": _LIBRARY_NORMS[problem.threat_model.norm], "eps": problem.threat_model.radius}


# ---- defects of CW -------------------------------------------------------------------------------------------------


class _PositiveLogits(nn.Module):
    """Each row of logits shifted to a minimum of 1; differences are unchanged.

    torchattacks' CW masks logits by multiplying with 0 and takes the maximum: where all are negative it takes the mask.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits - logits.detach().amin(dim=1, keepdim=True) + 1


def _construct_cw(model: nn.Module, options: Options) -> Any:
    """CW on positive logits that starts inside the box.

    CW searches in atanh space, where a pixel of exactly 0 or 1 sits at infinity and never moves: on images with a black
    background that is most of them. Like the authors' code, start at ``box`` times the pixel's distance from grey.
    """
    parameters = {key: value for key, value in options.items() if key not in ("box", "positive_logits")}
    attack = importlib.import_module(_LIBRARY).CW(_PositiveLogits(model), **parameters)
    attack.inverse_tanh_space = lambda pixels: torch.atanh((2 * pixels - 1) * options["box"])
    return attack


def _construct_autoattack(model: nn.Module, options: Options) -> Any:
    """Torchattacks' AutoAttack; its seeds are set before each batch, and not from the clock."""
    attack = importlib.import_module(_LIBRARY).AutoAttack(
        model, norm=options["norm"], eps=options["eps"], n_classes=options["n_classes"], seed=0
    )
    *_, square = attack._autoattack.attacks
    square.n_queries = options["n_queries"]
    return attack


def _construct_sparsefool(model: nn.Module, options: Options) -> Any:
    attack = importlib.import_module(_LIBRARY).SparseFool(
        model, steps=options["steps"], lam=options["lam"], overshoot=options["overshoot"]
    )
    attack.deepfool.steps = options["deepfool_steps"]
    return attack


def _construct_jsma(model: nn.Module, options: Options) -> Any:
    """JSMA towards the class with the second largest logit; by default it takes the next of ten classes."""

    def runner_up(images: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            logits = model(images)
        return logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)

    attack = importlib.import_module(_LIBRARY).JSMA(model, theta=options["theta"], gamma=options["gamma"])
    attack.set_mode_targeted_by_function(runner_up, quiet=True)
    return attack


def _construct_ead(class_name: str) -> Construct:
    """EADL1 or EADEN on positive logits: they leave out the label's logit as CW does."""

    def construct(model: nn.Module, options: Options) -> Any:
        parameters = {key: value for key, value in options.items() if key != "positive_logits"}
        return getattr(importlib.import_module(_LIBRARY), class_name)(_PositiveLogits(model), **parameters)

    return construct


TORCHATTACKS: Final = (
    _torchattacks_row("fgsm", ("linf",), "fixed-eps", "FGSM", _fgsm),
    _torchattacks_row("pgd", ("linf",), "fixed-eps", "PGD", _pgd),
    _torchattacks_row("mifgsm", ("linf",), "fixed-eps", "MIFGSM", _mifgsm),
    _torchattacks_row("bim", ("linf",), "fixed-eps", "BIM", _stepped()),
    _torchattacks_row("rfgsm", ("linf",), "fixed-eps", "RFGSM", _stepped()),
    _torchattacks_row("ffgsm", ("linf",), "fixed-eps", "FFGSM", _ffgsm),
    _torchattacks_row("eotpgd", ("linf",), "fixed-eps", "EOTPGD", _stepped(eot_iter=2, random_start=True)),
    _torchattacks_row("tpgd", ("linf",), "fixed-eps", "TPGD", _stepped()),
    _torchattacks_row("upgd", ("linf",), "fixed-eps", "UPGD", _stepped(random_start=True, loss="margin")),
    _torchattacks_row("jitter", ("linf",), "fixed-eps", "Jitter", _stepped(scale=10, std=0.1, random_start=True)),
    _torchattacks_row("nifgsm", ("linf",), "fixed-eps", "NIFGSM", _stepped(decay=1.0)),
    _torchattacks_row("sinifgsm", ("linf",), "fixed-eps", "SINIFGSM", _stepped(decay=1.0, m=5)),
    _torchattacks_row("vmifgsm", ("linf",), "fixed-eps", "VMIFGSM", _stepped(decay=1.0, N=5, beta=1.5)),
    _torchattacks_row("vnifgsm", ("linf",), "fixed-eps", "VNIFGSM", _stepped(decay=1.0, N=5, beta=1.5)),
    _torchattacks_row("difgsm", ("linf",), "fixed-eps", "DIFGSM", _stepped(decay=0.0, random_start=True)),
    _torchattacks_row("tifgsm", ("linf",), "fixed-eps", "TIFGSM", _three_channels("tifgsm", _stepped(decay=0.0))),
    _torchattacks_row("pifgsm", ("linf",), "fixed-eps", "PIFGSM", _three_channels("pifgsm", _patchwise)),
    _torchattacks_row("pifgsmpp", ("linf",), "fixed-eps", "PIFGSMPP", _three_channels("pifgsmpp", _patchwise)),
    _torchattacks_row("spsa", ("linf",), "fixed-eps", "SPSA", _spsa, cost=_spsa_cost),
    _torchattacks_row("pgdl2", ("l2",), "fixed-eps", "PGDL2", _pgd),
    _torchattacks_row("apgd", ("l2", "linf"), "fixed-eps", "APGD", _apgd),
    _torchattacks_row("apgdt", ("l2", "linf"), "fixed-eps", "APGDT", _apgdt),
    _torchattacks_row("square", ("l2", "linf"), "fixed-eps", "Square", _square),
    _torchattacks_row("fab", ("l2", "linf"), "minimal-norm", "FAB", _fab),
    _torchattacks_row("cw", ("l2",), "minimal-norm", "CW", _cw, _construct_cw),
    _torchattacks_row("deepfool", ("l2",), "minimal-norm", "DeepFool", _deepfool, cost=_deepfool_cost),
    _torchattacks_row("eadl1", ("l1",), "minimal-norm", "EADL1", _ead, _construct_ead("EADL1")),
    _torchattacks_row("eaden", ("l1", "l2"), "minimal-norm", "EADEN", _ead, _construct_ead("EADEN")),
    _torchattacks_row("onepixel", NORMS, "l0", "OnePixel", _onepixel, cost=_onepixel_cost),
    _torchattacks_row("pixle", NORMS, "l0", "Pixle", _pixle, cost=_pixle_cost),
    _torchattacks_row("sparsefool", NORMS, "l0", "SparseFool", _sparsefool, _construct_sparsefool, _sparsefool_cost),
    _torchattacks_row("jsma", NORMS, "l0", "JSMA", _jsma, _construct_jsma, _jsma_cost),
    _torchattacks_row(
        "torchattacks-autoattack-10step",
        ("l2", "linf"),
        "fixed-eps",
        "AutoAttack",
        _autoattack_10step,
        _construct_autoattack,
        _autoattack_10step_cost,
    ),
)
