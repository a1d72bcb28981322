"""Metrics of members on rows of their own, computed in pieces so that little is in memory at once."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from d2l_lightning.ensemble.data import StackedData
from d2l_lightning.ensemble.vectorized import Vectorized
from d2l_lightning.errors import InputError

EpochMetrics = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@torch.no_grad()
def evaluate_members(
    members: Vectorized, epoch_metrics: EpochMetrics, data: StackedData, stage: str, max_bytes: int
) -> dict[str, Tensor]:
    """Return the metrics of K members on their rows of a stage, see ``StackedModule.evaluate``: ``(K,)``.

    Members with equally many rows are computed together, without padding, so that no sum depends on others.
    """
    state = members.state
    num_members, device = len(state[0]), state[0].device
    if stage not in data.rows or len(data.rows[stage]) != num_members:
        what = f"the stages {', '.join(data.rows)}, and {len(data.rows['train'])} members"
        raise InputError(f"{num_members} members cannot be evaluated on {stage}: the data have {what}")
    X, y = (values.to(device) for values in data.flat())
    if X.is_floating_point():  # in a fit in another precision, the Trainer converts the batches alone
        X = X.to(next((own.dtype for own in state if own.requires_grad), X.dtype))
    by_size: dict[int, list[int]] = {}
    for k, rows in enumerate(data.rows[stage]):
        by_size.setdefault(len(rows), []).append(k)
    values_of: defaultdict[str, Tensor] = defaultdict(partial(torch.full, (num_members,), torch.nan))
    for size, alike in by_size.items():
        room = max_bytes // max(size * X[:1].nbytes, 1)
        for piece in torch.tensor(alike).split(max(room, 2)) if size else ():
            if len(piece) == 1:  # a product of one matrix is rounded differently from one of several
                piece = piece.repeat(2)
            for metric, mean in _means(members, data, stage, piece, state, (X, y)).items():
                values_of[metric] = values_of[metric].to(mean).index_copy(0, piece.to(device), mean)
    return {f"{stage}/{name}": values for name, values in epoch_metrics(values_of).items()}


def _means(
    members: Vectorized,
    data: StackedData,
    stage: str,
    piece: Tensor,
    state: Sequence[Tensor],
    tensors: tuple[Tensor, Tensor],
) -> dict[str, Tensor]:
    """Return the means of some members' values by name, shape ``(k,)``."""
    device = tensors[0].device
    rows = torch.stack([data.rows[stage][k] for k in piece.tolist()])
    places = data.places(rows, piece).to(device)
    own = [values.index_select(0, piece.to(device)) for values in state]
    X, y = (each.index_select(0, places.view(-1)).view(*rows.shape, *each.shape[1:]) for each in tensors)
    # As the Trainer converts a batch to the precision of the weights.
    dtype = next((values.dtype for values in own if values.is_floating_point()), X.dtype)
    X, y = (each.to(dtype) if each.is_floating_point() else each for each in (X, y))
    means = {}
    for metric, values in members.each("_values", (0, 0), X, y, state=own).items():
        if f"{stage}/{metric}" == "train/loss":  # this is the loss of the training steps
            continue
        if stage in data.weights:
            weight = data.weights[stage][piece].gather(1, rows).to(device)
            means[metric] = (weight * values).sum(dim=-1) / weight.sum(dim=-1)
        else:
            means[metric] = values.mean(dim=-1)
    return means
