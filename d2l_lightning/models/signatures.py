"""Methods with the book's signatures: ``loss(y_hat, y)``, and ``configure_optimizers`` with any optimizer."""

import inspect
from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d2l_lightning.errors import InputError, require_same_shape
from d2l_lightning.functional.precision import single
from d2l_lightning.functional.risk import empirical_risk
from d2l_lightning.models.checks import shape_error
from d2l_lightning.optim.plain import as_optimizers

if TYPE_CHECKING:
    from d2l_lightning.models.base import SupervisedModule


def adapt_methods(cls: "type[SupervisedModule]") -> None:
    """Let the Trainer use the methods that a class defines with the signatures of the book.

    A ``loss(self, y_hat, y)`` becomes the loss of training and evaluation, see ``losses_by_rows``. What
    ``configure_optimizers`` returns may be any object with ``step``, ``zero_grad`` and ``params``.
    """
    own = vars(cls)
    for name in ("losses_of", "example_losses"):
        if own.get(name) in (losses_by_rows, _example_losses):  # of a loss that is replaced
            delattr(cls, name)
    if takes_predictions(own.get("loss")):
        if cls.loss_owner is None:
            cls.loss_owner = cls
        if "example_losses" not in own:
            cls.example_losses = _example_losses  # type: ignore[method-assign]
            cls.losses_of = losses_by_rows  # type: ignore[method-assign]
    elif "loss" in own:
        cls.loss_owner = None
    configure = own.get("configure_optimizers")
    if isinstance(configure, FunctionType) and not hasattr(configure, "takes_any_optimizer"):
        cls.configure_optimizers = _taking_any_optimizer(configure)  # type: ignore[method-assign, assignment]


def takes_predictions(loss: Any) -> bool:
    """Return whether a method ``loss`` takes predictions and targets, as the book's, not X, y and weights."""
    if not isinstance(loss, FunctionType):
        return False
    parameters = [*inspect.signature(loss).parameters.values()][1:]
    # More of them have values, such as averaged=True; a weight has none.
    needed = [each for each in parameters if each.default in (each.empty, None)]
    return len(needed) == 2 and parameters[0].name != "X"


def _taking_any_optimizer(configure: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @wraps(configure)
    def configure_optimizers(self: Any) -> Any:
        return as_optimizers(configure(self))

    vars(configure_optimizers)["takes_any_optimizer"] = True
    return configure_optimizers


def _example_losses(self: "SupervisedModule", X: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each example, by the class's ``loss(y_hat, y)``: shape ``(B,)``."""
    return self.losses_of(self(X), y)


def losses_by_rows(self: "SupervisedModule", y_hat: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each example, by the class's ``loss(y_hat, y)``: shape ``(B,)``.

    A loss that returns a number for a batch is computed for each row as a batch of its own. The mean of these
    is the number if it is a mean over rows, with or without a penalty.

    Raises:
        InputError: If it is not.
    """
    value = _loss(self, y_hat, y)
    if value.ndim:
        return value.reshape(len(y)) if value.numel() == len(y) else value

    def of_row(prediction: Tensor, target: Tensor) -> Tensor:
        return self.loss(prediction.unsqueeze(0), target.unsqueeze(0))

    name = f"loss(y_hat, y) of {type(self).__name__}"
    remedy = "return the loss of each example, shape (B,), without a mean"
    try:
        losses: Tensor = torch.vmap(of_row, randomness="different")(y_hat, y)
    except RuntimeError as error:
        what = str(error).partition("\n")[0]
        raise InputError(f"{name} cannot be computed for each example ({what}); {remedy}") from error
    if not self.loss_is_mean and not _in_vmap(value):
        mean = losses.detach().mean()
        if not torch.allclose(mean, value.detach(), rtol=0.01, atol=1e-6, equal_nan=True):
            if y.is_floating_point():  # the difference of (B, 1) and (B,) is of shape (B, B)
                require_same_shape(y_hat=y_hat, y=y)
            raise InputError(
                f"{name} is {value:g} for a batch whose examples have the mean {mean:g}; {remedy}"
            )
        self.loss_is_mean = len(y) > 1
    return losses


def training_loss(model: "SupervisedModule", X: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the loss of a training batch, by the class's ``loss(y_hat, y)``: a scalar."""
    y_hat = model(X)
    if weight is not None:
        return empirical_risk(single(model.losses_of(y_hat, y)), weight)
    value = _loss(model, y_hat, y)
    if value.ndim:
        losses = model.losses_of(y_hat, y)
        if losses.ndim != 1:
            raise shape_error(model, "loss", losses, X, y[:, 0] if y.ndim == 2 else y)
        return single(losses).mean()
    if not model.loss_is_mean and not _in_vmap(value):
        with torch.no_grad(), torch.random.fork_rng([y.device] if y.is_cuda else []):
            model.losses_of(y_hat, y)
    return value


def _loss(model: "SupervisedModule", y_hat: Tensor, y: Tensor) -> Tensor:
    """Return what the class's ``loss(y_hat, y)`` returns; raise an InputError if it is no tensor."""
    value = model.loss(y_hat, y)
    if not isinstance(value, Tensor):
        raise InputError(f"loss(y_hat, y) of {type(model).__name__} must return a tensor, not {value!r}")
    return value


def _in_vmap(value: Tensor) -> bool:
    return bool(torch._C._functorch.is_batchedtensor(value))
