"""Checks of a model, its batches and its Trainer that would otherwise give wrong results without a word."""

from contextlib import suppress

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy

from d2l_lightning.errors import DivergenceError, InputError, require_same_shape


def shape_error(model: LightningModule, what: str, values: Tensor, X: Tensor, y: Tensor) -> InputError:
    """Return the error of values that are not of shape ``(B,)``, with the shapes that they come from."""
    found = f"{what} of {type(model).__name__} has the shape {tuple(values.shape)}"
    message = f"{found}, and must have a value for each example, ({len(X)},)"
    if y.ndim != 1:
        return InputError(f"{message}; y of shape {tuple(y.shape)} must be a vector, such as y.squeeze(-1)")
    predictions = None
    with suppress(Exception):  # forward may be of another kind
        predictions = model(X)
    if isinstance(predictions, Tensor):
        try:
            require_same_shape(**{"self(X)": predictions}, y=y)
        except InputError as error:
            return InputError(f"{message}; {error}")
    return InputError(message)


def missing_method(model: LightningModule, method: str, returns: str) -> InputError:
    """Return the error of a class without a method, which may be added to it later."""
    return InputError(f"{type(model).__name__} has no {method}; define it in the class to return {returns}")


def require_batches(model: LightningModule) -> None:
    """Raise an InputError after an epoch without a batch, unless the class has a training step of its own."""
    if model.training_step.__qualname__ == "SupervisedModule.training_step":
        raise InputError(f"the training loader had no batch in epoch {model.current_epoch + 1}")


def explain_error(model: LightningModule, X: Tensor, error: Exception) -> None:
    """Raise an InputError if an error comes from features of a wrong type, or from a batch of one row."""
    dtype = next((parameter.dtype for parameter in model.parameters()), X.dtype)
    if X.dtype != dtype and ("dtype" in str(error) or "scalar type" in str(error)):
        raise InputError(f"X holds {X.dtype} and the parameters {dtype}; take X.to({dtype})") from error
    if "more than 1 value per channel" in str(error):
        what = "batch normalization cannot train on a batch of one row"
        raise InputError(f"{what}; choose another batch_size") from error


def require_new_fit(trainer: Trainer, continues: bool) -> None:
    """Raise an InputError if a Trainer would go on after its last epoch, or with another model.

    Args:
        trainer: The Trainer, at the start of a fit.
        continues: Whether its earlier fit was of the same model.
    """
    made = trainer.current_epoch, trainer.global_step
    if trainer.ckpt_path is not None or not any(made):
        return
    limits = -1 if trainer.max_epochs is None else trainer.max_epochs, trainer.max_steps
    if not continues or any(0 <= limit <= count for limit, count in zip(limits, made, strict=True)):
        what = f"this Trainer has already trained for {made[0]} epochs and {made[1]} steps"
        raise InputError(f"{what} and goes on counting from there; make a new Trainer for a new fit")


def require_parameters(model: LightningModule) -> None:
    """Raise an InputError for a tensor that requires a gradient and is no parameter.

    Checkpoints do not hold it, the Trainer does not move it, and ``parameters()`` does not list it.
    """
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
                where = f"{path}.{name}" if path else name
                raise InputError(f"{where} requires a gradient but is no parameter; make it an nn.Parameter")


def parameter_size(model: LightningModule, num_members: int) -> Tensor:
    """Return the norm of the trained parameters of each of the models side by side, shape ``(K,)``."""
    trained = [p.detach() for p in model.parameters() if p.requires_grad and not is_lazy(p)]
    norms = [parameter.reshape(num_members, -1).norm(dim=1) for parameter in trained]
    return torch.stack(norms).norm(dim=0) if norms else torch.zeros(num_members)


def require_stable_decay(**settings: float) -> None:
    """Raise a DivergenceError if the product of a learning rate and a constant of weight decay is above 2.

    Each step of gradient descent multiplies the weights by 1 minus the product.
    """
    (rate, lr), (name, decay) = settings.items()
    if lr * decay > 2:
        what = f"{rate} times {name} is {lr * decay:g}; above 2, weights grow with each step"
        raise DivergenceError(f"{what}; a lower {rate} may help")
