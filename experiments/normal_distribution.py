"""The normal distribution, and why the squared loss is its likelihood (3.1.3)."""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from torch import Tensor

from d2l_lightning.data.regression import SyntheticRegressionData
from d2l_lightning.errors import InputError, require_finite
from d2l_lightning.figures import draw_curves, panels
from d2l_lightning.functional.linear import linear
from d2l_lightning.functional.normal import gaussian_negative_log_likelihood, normal_density
from d2l_lightning.functional.regression import squared_loss
from d2l_lightning.run import Run, run_experiment


def main(run: Run, means: list[float], stds: list[float], noise: float) -> None:
    """Draw normal densities, and find weights by the squared loss and by the likelihood (3.1.3).

    Args:
        run: The run.
        means: Mean of each density, as in `--means 0 0 3`.
        stds: Standard deviation of each density.
        noise: Standard deviation of the noise in the data (eq. 3.1.13) whose weights are to be found.
    """
    if len(means) != len(stds) or not means:
        raise InputError(f"means and stds must be as many, at least one: {means} and {stds}")
    require_finite(means=torch.tensor(means))
    normals = list(zip(means, stds, strict=True))
    # For each its own points, as a narrow one has little room between those of a wide one.
    own = [torch.linspace(mean - 8 * std, mean + 8 * std, 2001, dtype=torch.float64) for mean, std in normals]
    densities = [normal_density(x, mean, std) for x, (mean, std) in zip(own, normals, strict=True)]
    data = SyntheticRegressionData(noise=noise, num_val=0, seed=run.seed)
    if noise == 0:
        raise InputError("noise must be positive: without noise there is no likelihood")
    run.start()

    rows = []
    told = []
    for (mean, std), x, p in zip(normals, own, densities, strict=True):
        integral = torch.trapezoid(p, x).item()
        peak = normal_density(torch.tensor(mean, dtype=x.dtype), mean, std).item()
        rows.append((f"mean {mean:g}, standard deviation {std:g}", peak, integral))
        told.append({"mean": mean, "std": std, "peak": peak, "integral": integral})
    run.table("normal densities", ("", "highest value", "integral"), rows)

    X, y = data.X.double(), data.y.double()
    weights = {
        "squared_loss": minimize(X, lambda y_hat: squared_loss(y_hat, y).mean()),
        "negative_log_likelihood": minimize(
            X, lambda y_hat: gaussian_negative_log_likelihood(y_hat, y, noise) / len(y)
        ),
    }
    truth = [*data.w.tolist(), data.b]
    names = [*(f"w{i}" for i in range(1, len(truth))), "b"]
    table: list[list[str | float]] = [[name.replace("_", " "), *found] for name, found in weights.items()]
    run.table("weights that minimise", ("", *names), [*table, ["the truth", *truth]])
    run.figure(draw_densities(normals, own, densities), "densities")
    run.figure(draw_likelihoods(stds), "likelihoods")
    run.finish({"densities": told, "weights": weights})


def minimize(X: Tensor, objective: Callable[[Tensor], Tensor]) -> list[float]:
    """Return the weights, and last the bias, whose predictions for X have the least of an objective."""
    w = torch.zeros(X.shape[1], dtype=X.dtype, requires_grad=True)
    b = torch.zeros((), dtype=X.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b], max_iter=100, tolerance_grad=1e-10, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = objective(linear(X, w, b))
        value.backward()
        return value

    optimizer.step(closure)
    return [*w.tolist(), b.item()]


def draw_densities(normals: list[tuple[float, float]], own: list[Tensor], densities: list[Tensor]) -> Figure:
    """Draw the densities."""
    figure, (panel,) = panels([""], "Normal densities", "x", "density p(x)")
    names = [f"mean {mean:g}, std. {std:g}" for mean, std in normals]
    curves = zip(names, own, densities, strict=True)
    draw_curves(panel, [(name, x.tolist(), p.tolist()) for name, x, p in curves])
    panel.set_xlim(
        min(mean - 4.5 * std for mean, std in normals), max(mean + 4.5 * std for mean, std in normals)
    )
    panel.legend(frameon=False)
    return figure


def draw_likelihoods(stds: list[float]) -> Figure:
    """Draw what a residual costs by the likelihood, beside what it costs by the squared loss."""
    figure, axes = panels(
        ["squared loss", "negative log-likelihood"],
        "What an error costs: the same parabola, scaled and shifted",
        "error: target minus prediction",
        "cost of one example",
    )
    reach = 2 * max(stds)
    errors = torch.linspace(-reach, reach, 201, dtype=torch.float64)
    draw_curves(axes[0], [("", errors.tolist(), squared_loss(errors, torch.zeros_like(errors)).tolist())])
    curves = []
    for std in sorted(set(stds)):
        costs = [gaussian_negative_log_likelihood(torch.zeros_like(e), e, std).item() for e in errors]
        curves.append((f"standard deviation {std:g}", errors.tolist(), costs))
    draw_curves(axes[1], curves)
    axes[1].legend(frameon=False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
