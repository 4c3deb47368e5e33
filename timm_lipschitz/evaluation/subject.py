"""The evaluated model: certified where it can be, and executed in float32 by the attacks."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ..attacks import check_float32, clean_logits
from ..certification.bounds import asserted_modules
from ..certification.certifier import Certifier
from ..data import check_labels
from ..errors import InvalidInputError, NotCertifiableError
from ..folding import FoldedNetwork, explicit_steps, fold_steps, input_shape
from ..layers.fusing import settled
from ..models.loading import LoadedModel

__all__ = ["CleanAndCertified", "Subject", "as_loaded"]


class FunctionModel(nn.Module):
    """A function from images to logits as a module, for libraries that ask for one."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function
        self.__name__ = _name_of(function)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def as_loaded(model: nn.Module | LoadedModel | Callable[[Tensor], Tensor]) -> LoadedModel:
    """Whatever may be evaluated, with the name that a record gives it.

    Raises `InvalidInputError` for what cannot be called.
    """
    if isinstance(model, LoadedModel):
        return model
    if not callable(model):
        raise InvalidInputError(f"a {type(model).__name__} cannot be evaluated: give a torch module or a function")
    module = model if isinstance(model, nn.Module) else FunctionModel(model)
    name = type(model).__name__ if isinstance(model, nn.Module) else _name_of(model)
    return LoadedModel(module, name, name)


def _name_of(function: Callable[[Tensor], Tensor]) -> str:
    return getattr(function, "__name__", type(function).__name__)


@dataclass(frozen=True)
class CleanAndCertified:
    """Columns of the table of images for B images, on the CPU: int64, float64 and bool tensors (B,).

    ``lipschitz`` is the bound that the radii rest on, pixels to logits, None without certificates; ``asserted`` the
    modules whose part of it is somebody's word.
    """

    prediction: Tensor
    margin: Tensor
    radius: Tensor
    correct: Tensor
    lipschitz: float | None = None
    asserted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A model under evaluation, in eval mode on ``device``.

    With ``compiled`` the attacks run it through torch.compile; certificates and the alarm never do.

    What is derived from its weights is made once: they must not change meanwhile.
    """

    model: nn.Module
    device: torch.device
    compiled: bool = False

    @cached_property
    def refusal(self) -> str | None:
        """Why the model has no certificates, and is attacked alone; None if it has them."""
        try:
            explicit_steps(self.model)
        except NotCertifiableError as error:
            return str(error)
        return None

    @property
    def certifiable(self) -> bool:
        """Whether the model has a known Lipschitz bound."""
        return self.refusal is None

    @cached_property
    def executed(self) -> nn.Module:
        """What the attacks run: the folded network in float32, or the model itself where it cannot be folded."""
        network = self.model
        if self.certifiable:
            folded = copy.deepcopy(self.float64)
            network = settled(folded, self.model).float().to(self.device).requires_grad_(False)
        # One graph for all sizes of a batch: a graph for each would depend on which came first, and so would rounding
        return torch.compile(network, dynamic=True) if self.compiled else network  # type: ignore[return-value]

    def require_executable(self, images: Tensor) -> None:
        """Runs the network and an input gradient once, if it is compiled, on images (B, C, H, W).

        Raises `InvalidInputError` where the compiler fails or is missing, and for a model that fails on such images.
        """
        if not self.compiled:
            return
        if not self.certifiable:  # the model's own refusal, before the compiler has a part in it
            clean_logits(self.model, images, len(images), self.device)
        pixels = images.to(self.device).requires_grad_()
        try:
            with torch.enable_grad():
                torch.autograd.grad(self.executed(pixels).sum(), pixels)
        except Exception as error:  # dynamo, inductor, triton and the system's compiler each have errors of their own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InvalidInputError(
                f"{type(self.model).__name__} cannot be compiled here ({type(error).__name__}: {reason}): leave out "
                "--compile, or install a C++ compiler (on a GPU, Triton)"
            ) from error

    @cached_property
    def certifier(self) -> Certifier:
        """The bound of the network and what else its certificates share."""
        return Certifier(self.model)

    @property
    def asserted(self) -> tuple[str, ...]:
        """The modules whose part of the bound is somebody's word."""
        return asserted_modules(explicit_steps(self.model)) if self.certifiable else ()

    @torch.no_grad()
    def certify(
        self, images: Tensor, labels: Tensor, batch_size: int, progress: Callable[[int, int], None] | None
    ) -> CleanAndCertified:
        """Predictions and certified radii of images (B, C, H, W); radii are 0 for a model without certificates.

        An image is correct if the label's logit exceeds every other one: a tie is not. Raises `NonFiniteError` for
        logits that are NaN or infinite, `InvalidInputError` for a label that the model has no class for, and for a
        model that `run_attack` would refuse.
        """
        if self.certifiable:
            found = self.certifier(images, labels, batch_size=batch_size, progress=progress)
            columns = (found.prediction, found.margin, found.radius, found.margin > 0)
            return CleanAndCertified(*columns, found.lipschitz, found.asserted)
        logits = self._logits(images, batch_size, progress)
        check_labels(labels, logits.shape[1], num_images=len(images))
        own = torch.nn.functional.one_hot(labels.cpu(), logits.shape[1]).bool()
        margin = logits[own] - logits.masked_fill(own, -torch.inf).amax(dim=1)
        return CleanAndCertified(logits.argmax(dim=1), margin, torch.zeros_like(margin), margin > 0)

    def _logits(self, images: Tensor, batch_size: int, progress: Callable[[int, int], None] | None) -> Tensor:
        check_float32(self.model)
        logits = clean_logits(self.executed, images, batch_size, self.device).double().cpu()
        if progress is not None:
            progress(len(images), len(images))
        return logits

    @cached_property
    def float64(self) -> FoldedNetwork:
        """The folded network in float64, which a certificate speaks of."""
        steps = explicit_steps(self.model)
        return fold_steps(steps, input_shape(self.model), float(self.model.lipschitz)).to(self.device)  # type: ignore[arg-type]
