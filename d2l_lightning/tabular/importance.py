"""Permutation importance: how much worse models predict rows in which one column of the table is shuffled."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from d2l_lightning.data.batches import epoch_generator
from d2l_lightning.data.tables.encoder import TableEncoder
from d2l_lightning.data.tables.reading import to_numbers
from d2l_lightning.errors import InputError
from d2l_lightning.models.table_regressor import RegressionMetric
from d2l_lightning.tabular.diagnostics import score

if TYPE_CHECKING:
    import pandas as pd

# Rows that are encoded at once: for pandas, 10,000 rows take little longer than 1,000.
ENCODED_ROWS = 20_000


@torch.no_grad()
def permutation_importance(
    table: "pd.DataFrame",
    y: Tensor,
    encoders: TableEncoder | Sequence[TableEncoder],
    members: Sequence[nn.Module],
    val_rows: Sequence[Tensor],
    metric: RegressionMetric,
    seed: int,
    floor: float = 1.0,
) -> "pd.DataFrame":
    """Return how important each column is to K models, measured on rows that they were not trained on.

    The importance of a column is the increase of the metric when the column's values are shuffled among the
    validation rows of a fold, as a mean over the folds. The seed alone decides how rows are shuffled. The
    models are put into evaluation mode.

    Columns that hold the same information share it: each one stands in for the other. A shuffled value may be
    impossible beside those of other columns, such as a finished area in a house without a basement. Where
    features depend on such values together, the importance of their columns is too high.

    Args:
        table: The columns as text, with a row for each label.
        y: The labels, shape ``(n,)``.
        encoders: The encoder of all models, or one for each.
        members: The models: ``member(X)`` returns predictions of shape ``(B,)``.
        val_rows: The validation rows of each model.
        metric: The metric of each fold.
        seed: Seed of the shuffles.
        floor: For ``log_rmse``, predictions below it count as it.

    Returns:
        A table of ``column``, ``importance`` and ``standard_error`` (over the folds; NaN for one fold), with
        the most important column first.

    Raises:
        InputError: If encoders or validation rows do not go with the models, or a fold has no rows.

    Source: Breiman, "Random Forests" (2001), Section 10; Fisher, Rudin and Dominici, "All Models are Wrong,
    but Many are Useful" (2019), Section 3.
    """
    import pandas as pd

    encoders = [encoders] * len(members) if isinstance(encoders, TableEncoder) else list(encoders)
    if not len(members) == len(encoders) == len(val_rows):
        counts = f"{len(encoders)} encoders and {len(val_rows)} sets of rows do not go with {len(members)}"
        raise InputError(f"each model needs an encoder and validation rows; {counts} models")
    sizes = [len(rows) for rows in val_rows]
    if not members or not all(sizes):
        raise InputError("importance needs a model, and validation rows in every fold")
    kinds = encoders[0].columns
    # The validation rows, fold after fold. Numbers are read from text once, not for each shuffle.
    table = table[list(kinds)].iloc[torch.cat(list(val_rows)).numpy()].reset_index(drop=True)
    table = table.assign(**{c: to_numbers(table[c]) for c, kind in kinds.items() if kind == "number"})
    (features,) = _encode([table], encoders, sizes)
    generator = epoch_generator(seed, 0, 6)
    orders = [torch.rand(len(kinds), size, generator=generator).argsort(dim=1) for size in sizes]
    parts = [encoder.features_of_columns() for encoder in encoders]
    own = [part for part in parts if part is not None]
    shuffled = (
        _rearranged(features, own, list(kinds), orders)
        if len(own) == len(parts)
        else _encoded_again(table, encoders, list(kinds), orders)
    )
    labels = [y[rows] for rows in val_rows]
    for member in members:
        member.eval()

    weights = [next(member.parameters(), torch.empty(0)) for member in members]

    def scores(features: Sequence[Tensor]) -> Tensor:
        of_folds = zip(members, weights, features, labels, strict=True)
        # Models may be on another device, or in another precision.
        predictions = [(member(X.to(like)).to(own), own) for member, like, X, own in of_folds]
        return torch.stack([score(*each, metric, floor) for each in predictions])

    before = scores(features)
    increases = torch.stack([scores(X) - before for X in shuffled]).double()
    found = {
        "column": list(kinds),
        "importance": increases.mean(dim=1),
        "standard_error": increases.std(dim=1) / len(members) ** 0.5
        if len(members) > 1
        else torch.full((len(kinds),), torch.nan),
    }
    return pd.DataFrame(found).sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def _encode(
    tables: Sequence["pd.DataFrame"], encoders: Sequence[TableEncoder], sizes: Sequence[int]
) -> list[list[Tensor]]:
    """Return for each table the features of each fold, whose rows are one after the other in the table."""
    import pandas as pd

    if all(encoder is encoders[0] for encoder in encoders):
        blocks = encoders[0].transform(pd.concat(tables)).split([*sizes] * len(tables))
        of_folds = [blocks[fold :: len(sizes)] for fold in range(len(sizes))]
    else:
        ends = torch.tensor(sizes).cumsum(0).tolist()
        of_folds = [
            encoder.transform(pd.concat([table.iloc[end - size : end] for table in tables])).split(size)
            for encoder, size, end in zip(encoders, sizes, ends, strict=True)
        ]
    # In memory of their own: the last bits of a matrix product may depend on where a matrix begins.
    return [[X.clone() for X in of_table] for of_table in zip(*of_folds, strict=True)]


def _rearranged(
    features: Sequence[Tensor],
    parts: Sequence[dict[str, list[int]]],
    columns: Sequence[str],
    orders: Sequence[Tensor],
) -> Iterator[list[Tensor]]:
    """Yield the features, with those of one column from shuffled rows; they are valid until the next ones."""
    shuffled = [X.clone() for X in features]
    for index, column in enumerate(columns):
        for X, of_fold, part, order in zip(shuffled, features, parts, orders, strict=True):
            X[:, part[column]] = of_fold[:, part[column]][order[index]]
        yield shuffled
        for X, of_fold, part in zip(shuffled, features, parts, strict=True):
            X[:, part[column]] = of_fold[:, part[column]]


def _encoded_again(
    table: "pd.DataFrame",
    encoders: Sequence[TableEncoder],
    columns: Sequence[str],
    orders: Sequence[Tensor],
) -> Iterator[list[Tensor]]:
    """Yield the features of tables in which one column is shuffled; several tables are encoded at a time."""
    sizes = [order.shape[1] for order in orders]
    starts = torch.tensor([0, *sizes]).cumsum(0)
    rows = torch.cat([order + start for order, start in zip(orders, starts, strict=False)], dim=1).numpy()
    several = max(1, ENCODED_ROWS // len(table))
    for first in range(0, len(columns), several):
        tables = [
            table.assign(**{column: table[column].to_numpy()[order]})
            for column, order in zip(columns[first : first + several], rows[first:], strict=False)
        ]
        yield from _encode(tables, encoders, sizes)
