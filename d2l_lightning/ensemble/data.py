"""The data of members that train side by side: each step has one batch for every member."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from d2l_lightning.data.batches import (
    InMemoryData,
    RowLoader,
    StackedBatches,
    gather_from,
    on_device,
    require_ascending,
    require_indices,
    require_streams,
)
from d2l_lightning.ensemble.padding import Padding
from d2l_lightning.errors import InputError, require_finite


class StackedData(InMemoryData):
    """The data of K members that train side by side, each on rows of its own.

    A training batch has X ``(K, B, ...)``, y ``(K, B)`` and weight ``(K, B)``. Each member takes as many
    steps in an epoch as its rows fill batches; in the other steps its weights are 0. The only validation
    batch has X and y of all n rows, and for each stage (``train``, ``val``) weights of shape ``(K, n)``,
    which are 0 for rows of other stages.

    Args:
        X: Features that all members share, shape ``(n, ...)``, or features of each, shape ``(K, n, ...)``.
            With ``streams``, the latter are those of each stream, shape ``(R, n, ...)``.
        y: Targets, shape ``(n,)`` with shared features, else ``(K, n)`` or ``(R, n)``.
        rows: By stage, the rows of each member: K index tensors. Members are trained on the ``train`` rows.
        batch_size: Rows of each member in a step.
        seed: Seed of the order of the rows, which also depends on the epoch.
        same_order: Whether members with the same rows take them in the same order.
        weights: By stage, the weight of each row for each member, shape ``(K, n)``; 1 if not given.
        drop_last: Whether the last rows of a member in an epoch are left out if they are fewer than
            ``batch_size``. If it has fewer rows in all, they make a batch.
        streams: The stream of random numbers of each member, as in ``StackedModule``. Members with the same
            stream and the same rows take them in the same order, which depends on seed, epoch, stream and
            rows alone.
        shuffle: Whether the training rows are shuffled in each epoch; if not, members take them in the order
            that they have in ``rows``.

    Attributes:
        batches: The rows of the training batches. ``batches.steps`` has each member's number of steps.
    """

    def __init__(
        self,
        X: Tensor,
        y: Tensor,
        rows: Mapping[str, Sequence[Tensor]],
        batch_size: int,
        seed: int,
        same_order: bool = False,
        weights: Mapping[str, Tensor] | None = None,
        drop_last: bool = False,
        streams: Sequence[int] | None = None,
        shuffle: bool = True,
    ) -> None:
        super().__init__()
        if X.shape[: y.ndim] != y.shape:
            raise InputError(f"X of shape {tuple(X.shape)} does not go with y of shape {tuple(y.shape)}")
        require_finite(X=X, y=y)
        if "train" not in rows:
            raise InputError("rows must have the stage train")
        members = len(rows["train"])
        pools = members if streams is None else require_streams(streams, members)
        if y.ndim > 2 or (y.ndim == 2 and len(y) != pools):
            what, must = ("members", "(K, n)") if streams is None else ("streams", "(R, n)")
            raise InputError(
                f"y of shape {tuple(y.shape)} does not go with {pools} {what}; it must be {must}"
            )
        for stage, of_members in rows.items():
            if len(of_members) != members:
                raise InputError(f"rows of {len(of_members)} members for {stage} and of {members} for train")
            for k, own in enumerate(of_members, start=1):
                require_indices(**{f"rows of member {k} for {stage}": own})
                if len(own) and not 0 <= int(own.min()) <= int(own.max()) < y.shape[-1]:
                    raise InputError(f"rows of member {k} for {stage} must be from 0 to {y.shape[-1] - 1}")
        self.X, self.y, self.rows, n = X, y, rows, y.shape[-1]
        self.weights = dict(weights or {})
        for stage, weight in self.weights.items():
            shape = tuple(weight.shape)
            if stage not in rows or shape != (len(rows[stage]), n):
                raise InputError(f"weights of shape {shape} do not go with {n} rows of the stage {stage}")
            require_finite(**{f"weights of stage {stage}": weight})
            if weight.min() < 0:
                raise InputError(f"weights of stage {stage} must not be negative; one is {weight.min()}")
        self.batch_size, self.streams = batch_size, streams
        # The place of each member in the first dimension of X and y; None if members share them.
        self.pools = None
        if y.ndim == 2:
            self.pools = torch.tensor(list(range(members) if streams is None else streams))
        order = (seed, same_order, drop_last, streams, shuffle)
        self.batches = StackedBatches(rows["train"], batch_size, *order)
        self._placed = self.X, self.y
        self._moved: dict[str, tuple[Tensor, Any]] = {}  # what does not change between epochs, see `_once`

    def keep(self, indices: Sequence[int]) -> None:
        """Drop all members but these, in ascending order; the others have the batches that they had."""
        require_ascending(indices, len(self.rows["train"]))
        self.rows = {stage: [rows[k] for k in indices] for stage, rows in self.rows.items()}
        self.weights = {stage: weight[list(indices)] for stage, weight in self.weights.items()}
        if self.streams is not None:
            self.streams = [self.streams[k] for k in indices]
        if self.pools is not None:
            self.pools = self.pools[list(indices)]
        self.batches.keep(indices)

    def flat(self) -> tuple[Tensor, Tensor]:
        """Return X and y of all pools as one, on the Trainer's device: ``(R * n, ...)`` and ``(R * n,)``."""
        X, y = self._tensors()
        return (X.flatten(0, 1), y.flatten()) if y.ndim > 1 else (X, y)

    def _tensors(self) -> tuple[Tensor, Tensor]:
        """Return X and y on the Trainer's device, where they are kept for the next call."""
        self._placed = on_device(self, self._placed)
        return self._placed

    def places(self, rows: Tensor, members: Tensor) -> Tensor:
        """Return where rows, shape ``(..., U, B)``, of U members are in ``flat``."""
        return rows if self.pools is None else rows + self.pools[members][:, None] * self.y.shape[-1]

    def train_dataloader(self) -> RowLoader:
        """Return the loader of stacked training batches, gathered from one pool of rows."""
        X, y = self.flat()
        pool, repeat = gather_from(X, y), _repeater()

        def gather(
            step: tuple[Tensor, Tensor, Tensor | None], reuse: bool = False
        ) -> tuple[Tensor, Tensor, Tensor]:
            indices, weight, source = step
            values = pool(indices.view(-1), reuse)
            X, y = (each.view(*indices.shape, *each.shape[1:]) for each in values)
            if source is not None:
                X, y = repeat(X, source, reuse), y.index_select(0, source)
            return X, y, weight

        return _StackedLoader(self.batches, gather, partial(self._steps, X.dtype, X.device))

    def _steps(
        self, dtype: torch.dtype, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield for each step of the next epoch what its batch is made of, on a device.

        These are the places in ``flat`` of the members with different orders, the weights of all members, and
        the place of each member among those with different orders, or None if all differ.
        """
        rows, distinct = self.batches.next_epoch(), self.batches.distinct
        weights = self._weights_of(rows, dtype, device)
        source = None
        if len(distinct) < rows.shape[1]:
            # Members with the same order share a gather: then its result is in a cache, and is copied faster.
            rows, source = rows[:, distinct], self._once("source", self.batches.source, Tensor.to, device)
        # All steps are moved to the device at once: in each step, the copy would wait for it.
        places = self.places(rows, distinct).to(device)
        for indices, weight in zip(places.unbind(), weights, strict=True):
            yield indices, weight, source

    def _weights_of(self, rows: Tensor, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Return the weights of each step's rows on a device, with a note whether some are 0."""
        weight = self.batches.weight
        if "train" in self.weights:
            of_rows = self.weights["train"].to(dtype).expand(len(rows), -1, -1)
            return Padding.note(weight * of_rows.gather(2, rows), device)
        return cast(list[Tensor], self._once("weight", weight, Padding.note, device))

    def _once(self, name: str, tensor: Tensor, move: Callable[..., Any], device: torch.device) -> Any:
        """Return what a function returns for a tensor and a device, and keep it for the next call."""
        key = f"{name} on {device}"
        if self._moved.get(key, (None,))[0] is not tensor:
            self._moved[key] = tensor, move(tensor, device)
        return self._moved[key][1]

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the only validation batch; with ``streams``, it has a copy of X per member."""
        return DataLoader(cast(Any, _Evaluation(self)), batch_size=None)

    def evaluation_batch(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the validation batch of the present members, on the Trainer's device."""
        zeros = torch.zeros(self.y.shape[-1])
        weight = {}
        for stage, members in self.rows.items():
            weight[stage] = torch.stack([zeros.index_fill(0, rows, 1) for rows in members])
            if stage in self.weights:
                weight[stage] *= self.weights[stage]
        X, y = self._tensors()
        if self.pools is not None and not torch.equal(self.pools, torch.arange(len(y))):
            pools = self.pools.to(X.device)
            X, y = X.index_select(0, pools), y.index_select(0, pools)
        return X, y, on_device(self, weight)


class _StackedLoader(RowLoader):
    """Gathers the batches of steps that a function yields for the next epoch."""

    def __init__(self, batches: StackedBatches, gather: Callable[..., Any], steps: Callable[[], Any]) -> None:
        super().__init__(batches, gather)
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        return map(partial(self.gather, reuse=self.reuse), self.steps())


class _Evaluation:
    """The only validation batch, which is made anew when members have been dropped."""

    def __init__(self, data: StackedData) -> None:
        self.data = data
        self._made: tuple[Any, Any] = None, None  # the batch, and the rows that it was made of

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        if self._made[1] is not self.data.rows:
            self._made = self.data.evaluation_batch(), self.data.rows
        return self._made[0]


def _repeater() -> Callable[[Tensor, Tensor, bool], Tensor]:
    """Return a function that copies rows of a tensor; on request, to the same memory at each call."""
    buffers: list[Tensor] = []

    def repeat(values: Tensor, source: Tensor, reuse: bool) -> Tensor:
        if not reuse:
            return values.index_select(0, source)
        shape = (len(source), *values.shape[1:])
        if not buffers or buffers[0].shape != shape:
            buffers[:] = [values.new_empty(shape)]
        return torch.index_select(values, 0, source, out=buffers[0])

    return repeat
