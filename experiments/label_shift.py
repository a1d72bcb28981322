"""Label shift on Fashion-MNIST: estimate the target's shares of the classes, and train for them (4.9.3)."""

import copy
from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from d2l_lightning.classification import require_test_rows, test
from d2l_lightning.data.fashion_mnist import LABELS
from d2l_lightning.data.label_shift import LabelShiftedFashionMNIST
from d2l_lightning.figures import COLOURS
from d2l_lightning.functional.classification import softmax
from d2l_lightning.functional.label_shift import confusion_matrix, label_distribution, require_all_classes
from d2l_lightning.models.classifier import Classifier
from d2l_lightning.models.mlp import MLP
from d2l_lightning.run import Run, run_experiment

# Images that are predicted at a time.
CHUNK = 2000


def main(
    run: Run,
    hidden_sizes: list[int],
    concentration: float,
    num_target: int,
    soft: bool,
    batch_size: int,
    lr: float,
    sigma: float,
    val_fraction: float,
    data_dir: str | None = None,
) -> None:
    """Train on a source, estimate the classes' shares in an unlabelled target, train again for them (4.9.3).

    All fits begin from the same weights and meet the same batches. The target's labels are used to tell how
    well it went, and for the fit that knows the true shares.

    Args:
        run: The run.
        hidden_sizes: Width of each hidden layer.
        concentration: Of the Dirichlet distribution of the target's shares: the smaller, the more uneven.
        num_target: Rows of the target.
        soft: Take the classifier's probabilities for its predictions, not its choices.
        batch_size: Rows in a batch.
        lr: Learning rate of minibatch SGD.
        sigma: Standard deviation of the initial weights.
        val_fraction: Share of the training rows that is held out, for the confusion matrix.
        data_dir: A folder with the four IDX files; if not given, they are found or downloaded.
    """
    require_test_rows(run)
    data = LabelShiftedFashionMNIST(data_dir, batch_size, val_fraction, concentration, num_target, run.seed)
    start = MLP(hidden_sizes=hidden_sizes, lr=lr, sigma=sigma)
    data.prepare_data()
    data.setup()
    held_out = data.labels[data.rows["val"]].cpu()
    require_all_classes(held_out, len(LABELS))

    before, told_before = fit(run, start, data, "before", None)
    C = confusion_matrix(predictions(before, data, "val", soft), held_out)
    estimated = label_distribution(C, predictions(before, data, "test", soft).double().mean(dim=0))
    _, told_after = fit(run, start, data, "after", estimated / data.source_shares)
    _, told_oracle = fit(run, start, data, "oracle", data.target_shares / data.source_shares)

    distance = (estimated - data.target_shares).abs().sum().item() / 2
    shares = {"source": data.source_shares, "target": data.target_shares, "estimated": estimated}
    rows = [
        (label, *(f"{values[k].item():.4f}" for values in shares.values())) for k, label in enumerate(LABELS)
    ]
    note = f"Total variation distance of the estimated from the true target: {distance:.4f}."
    run.table("shares of the classes", ("", "source", "target", "estimated"), rows, note)
    accuracies = {"before": told_before, "after": told_after, "oracle": told_oracle}
    names = ("trained on the source", "trained with estimated weights", "trained with true weights")
    figures = zip(names, accuracies.values(), strict=True)
    table = [(name, f"{told['test_accuracy']:.4f}", f"{told['test_loss']:.4f}") for name, told in figures]
    run.table("accuracy on the target", ("", "accuracy", "loss"), table)
    run.figure(draw(shares, {name: told["test_accuracy"] for name, told in accuracies.items()}), "shares")
    run.finish(
        {
            "total_variation": distance,
            **{f"accuracy_{name}": told["test_accuracy"] for name, told in accuracies.items()},
            "shares": {
                name: dict(zip(LABELS, values.tolist(), strict=True)) for name, values in shares.items()
            },
            "condition": torch.linalg.cond(C).item(),
        }
    )


def fit(
    run: Run, start: MLP, data: LabelShiftedFashionMNIST, name: str, class_weights: Tensor | None
) -> tuple[Classifier, dict[str, float]]:
    """Train a copy of a model with weights for the classes; return it with its figures on the target."""
    model = copy.deepcopy(start)
    model.log_prefix = f"{name}/"
    data.class_weights = class_weights
    trainer = run.trainer(f"model: {name}")
    trainer.fit(model, data)
    told = test(trainer, model, data)
    run.checkpoint(model, name)
    return model.cpu().eval(), told


@torch.no_grad()
def predictions(model: Classifier, data: LabelShiftedFashionMNIST, stage: str, soft: bool) -> Tensor:
    """Return what a model predicts for a stage's rows, ``(n, 10)``: probabilities, or choices if not soft."""
    told = [softmax(model(data.examples(rows)[0])) for rows in data.rows[stage].split(CHUNK)]
    probabilities = torch.cat(told)
    return probabilities if soft else F.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).float()


def draw(shares: dict[str, Tensor], accuracies: Mapping[str, float]) -> Figure:
    """Draw the shares of the classes beside each other, and what the classifiers reach on the target."""
    figure = Figure(figsize=(12, 4.4), dpi=150, layout="constrained")
    figure.suptitle("Label shift: what was estimated of the target, and what training for it is worth")
    panel, bars = figure.subplots(1, 2, width_ratios=[3, 1])
    places, hatches = torch.arange(len(LABELS)), ("", "//", "..")
    for shift, (name, values), colour, hatch in zip(
        (-0.27, 0, 0.27), shares.items(), COLOURS, hatches, strict=False
    ):
        panel.bar(
            places + shift, values.tolist(), 0.25, label=name, color=colour, hatch=hatch, edgecolor="white"
        )
    panel.set_title("shares of the classes", fontsize="medium")
    panel.set_xticks(places.tolist(), LABELS, rotation=30, ha="right")
    panel.set_ylabel("share of rows")
    panel.legend(frameon=False)
    names = ["source\nas it is", "estimated\nweights", "true\nweights"]
    drawn = bars.bar(names, list(accuracies.values()), 0.6, color=[COLOURS[0], COLOURS[2], "0.6"])
    bars.bar_label(drawn, fmt="{:.4f}", padding=2)
    bars.set_title("accuracy on the target", fontsize="medium")
    bars.set(ylabel="share of right predictions", ylim=(0, 1))
    for each in (panel, bars):
        each.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    run_experiment(main)
