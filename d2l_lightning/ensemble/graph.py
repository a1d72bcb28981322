"""The losses and gradients of members as a graph of PyTorch's operations: traced once, then replayed."""

import copy
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from enum import Enum
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from d2l_lightning.ensemble.alike import STATE
from d2l_lightning.ensemble.cuda_graph import CudaGraph, CudaGraphs
from d2l_lightning.ensemble.vectorized import Vectorized
from d2l_lightning.errors import InputError
from d2l_lightning.functional.precision import without_autocast

aten = torch.ops.aten
_VIEWS = (
    *(aten.alias.default, aten.expand.default, aten.view.default, aten._unsafe_view.default),
    aten.permute.default,
)
_BY_ONE = (aten.mul.Scalar, aten.pow.Tensor_Scalar, aten.div.Scalar)
_PLAIN = (bool, int, str, bytes, type(None), type, Enum, torch.dtype, torch.device, torch.Size)


def traced(function: Callable[..., Any], inputs: Sequence[Tensor]) -> fx.GraphModule:
    """Return a function, of tensors to a tuple of tensors, as a graph of the operations that it calls.

    The graph takes tensors of the shapes of the inputs and returns the results as a tuple, each in memory of
    its own. It has no Python code of the function, and never waits for the device, so that a CUDA graph can
    capture it. The function and the graph are called here; inputs that they change are changed.

    The results are those of the function to the bit, with two exceptions. The gradients of weights, a
    transposed product of a transposed matrix, are computed as one product, so that sums may have another
    order. And on a CPU, the masks of dropout are other random numbers.
    """
    module = make_fx(function)(*inputs)
    graph = module.graph
    graph.set_codegen(fx.graph.CodeGen())
    for node in list(graph.nodes):
        if _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        _multiply_transposed(graph, node)
        _draw_faster(graph, node)
    graph.eliminate_dead_code()
    module.recompile()
    _separate_results(module, inputs)
    return module


def _changes_nothing(node: fx.Node) -> bool:
    """Return whether a node returns what it gets: a view of the same shape, or a number times 1."""
    by_one = node.target in _BY_ONE and node.args[1] == 1
    if by_one:  # unless an operation changes what the node returned
        targets = [user.target for user in node.users]
        by_one = not any(t._schema.is_mutable for t in targets if isinstance(t, torch._ops.OpOverload))
    source: Any = node.args[0] if node.args else None
    return bool(node.target in _VIEWS or by_one) and _is_same(node, source)


def _is_same(node: fx.Node, source: fx.Node) -> bool:
    """Return whether a view has the shape and the strides of what it views."""
    one, other = node.meta.get("val"), source.meta.get("val")
    return (
        isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
    )


def _draw_faster(graph: fx.Graph, node: fx.Node) -> None:
    """Draw the masks of dropout by comparing uniform numbers, which takes a third of the time on a CPU."""
    value = node.meta.get("val")
    if node.target is not aten.bernoulli.p or not isinstance(value, Tensor) or not value.is_cpu:
        return
    with graph.inserting_before(node):
        uniform = graph.call_function(aten.rand.default, (list(value.shape),), {"dtype": torch.float32})
        mask = graph.call_function(aten.lt_.Scalar, (uniform, node.args[1]))  # numbers, not truth values
        if value.dtype != torch.float32:
            mask = graph.call_function(aten._to_copy.default, (mask,), {"dtype": value.dtype})
    node.replace_all_uses_with(mask)
    graph.erase_node(node)


def _separate_results(module: fx.GraphModule, inputs: Sequence[Tensor]) -> None:
    """Let the graph copy results that share memory with others, or in which elements share memory.

    Gradients are changed in place: two parameters may not have one tensor.
    """
    with torch.no_grad():
        results = module.forward(*inputs)
    tensors = [x for x in (*inputs, *results) if isinstance(x, Tensor)]
    uses = Counter(x.untyped_storage().data_ptr() for x in tensors)
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    nodes: list[Any] = list(output.args[0])
    for i, result in enumerate(results):
        if isinstance(result, Tensor) and (
            uses[result.untyped_storage().data_ptr()] > 1
            or any(
                stride == 0 and size > 1 for stride, size in zip(result.stride(), result.shape, strict=True)
            )
        ):
            with module.graph.inserting_before(output):
                options: dict[str, Any] = {"memory_format": torch.contiguous_format}
                nodes[i] = module.graph.call_function(aten.clone.default, (nodes[i],), options)
    output.args = (tuple(nodes),)
    module.recompile()


def _transposes(node: Any) -> bool:
    """Return whether a node transposes the matrices of a batch of them."""
    return node.target is aten.transpose.int and {int(dim) % 3 for dim in node.args[1:]} == {1, 2}


def _multiply_transposed(graph: fx.Graph, node: fx.Node) -> None:
    """Compute (A^T B)^T as B^T A. Its memory is contiguous: an optimizer takes a third of the time."""
    if not _transposes(node):
        return
    product: Any = node.args[0]
    if product.target is not aten.bmm.default:
        return
    left, right = product.args
    if not _transposes(left):
        return
    with graph.inserting_before(node):
        transposed = graph.call_function(aten.transpose.int, (right, 1, 2))
        new = graph.call_function(aten.bmm.default, (transposed, left.args[0]))
    node.replace_all_uses_with(new)


class _Replayed(torch.autograd.Function):
    """Losses of members whose gradients are known, as a node of PyTorch's graph for backpropagation."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        """Return the losses, shape ``(K,)``."""
        ctx.gradients = gradients
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        """Return the gradients of the parameters, given those of the losses."""
        (of_losses,) = outputs
        gradients = [
            None if g is None else g * of_losses.view(-1, *[1] * (g.ndim - 1)).to(g.dtype)
            for g in ctx.gradients
        ]
        return None, None, *gradients


class LossGraph:
    """Computes the losses of members and the gradients of their sum by graphs, one for each shape of batch.

    A graph repeats what the first call did. So there is none, and ``None`` is returned, for a member whose
    loss depends on more than tensors and attributes that stay the same: on the Trainer, on random numbers
    other than PyTorch's, or on attributes that change. Global variables are not seen.

    Args:
        members: The module whose losses are computed.

    Attributes:
        enabled: Whether graphs are used.
        cuda_graphs: Whether a GPU replays them as CUDA graphs. Steps that cannot be captured are replayed
            operation by operation with ``auto``, and are an InputError with True.
        autocast: The type to which graphs convert as autocast does; None if they do not.
        trained: The parameters that the gradients belong to.
    """

    def __init__(self, members: Vectorized) -> None:
        self.members = members
        self.cuda_graphs: CudaGraphs = False
        self.autocast: torch.dtype | None = None
        self.reset()

    def reset(self, enabled: bool = True) -> None:
        """Forget all graphs."""
        self.enabled = enabled
        self.trained: list[Tensor] = []
        self._graphs: dict[Any, fx.GraphModule | CudaGraph] = {}
        self._attributes: Any = None

    def has_hooks(self) -> bool:
        """Return whether the module has hooks, so that there can be no graph."""
        return _attributes(self.members.module) is None

    def check(self) -> None:
        """Disable the graphs if an attribute of the module is not what it was when they were traced."""
        if self._graphs and _attributes(self.members.module) != self._attributes:
            self.reset(enabled=False)

    def __call__(self, *batch: Tensor, scales: Tensor | None = None) -> tuple[Any, ...] | None:
        """Return the losses and the gradients for the batches of the members, or None.

        With ``scales``, shape ``(K,)``, the gradients of each member are multiplied by its scale.
        """
        state = self.members.distinct
        if not self.enabled or torch.is_anomaly_enabled():
            return None
        if self.autocast is None and torch.is_autocast_enabled(state[0].device.type):
            return None
        scaled = () if scales is None else (scales,)
        # The random numbers of a share are those of its rows.
        key = (self.members.share, *[(x.shape, x.dtype, x.device) for x in batch])
        graph = self._graphs.get(key)
        if graph is None or (isinstance(graph, CudaGraph) and not graph.holds(state)):
            operations = self._trace(state, batch, scaled)
            if operations is None:
                self.reset(enabled=False)
                if self.cuda_graphs is True:
                    what = "a loss that depends on more than its tensors, or on data that change"
                    raise InputError(f"cuda_graphs does not go with {what}; leave it out")
                return None
            graph = self._captured(operations, state, batch)
            self._graphs[key] = graph
        with torch.no_grad(), without_autocast(state[0]):  # the graph has the conversions
            return graph.forward(*state, *batch, *scaled)

    def _captured(self, operations: fx.GraphModule, *inputs: Sequence[Tensor]) -> fx.GraphModule | CudaGraph:
        """Return a graph as a CUDA graph, if it shall be one and can be."""
        if not self.cuda_graphs:
            return operations
        try:
            return CudaGraph(operations, *inputs)
        except InputError:
            if self.cuda_graphs is True:
                raise
            self.cuda_graphs = False
            return operations

    def as_loss(self, losses: Tensor, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return losses from which backpropagation gets these gradients."""
        return _Replayed.apply(losses, gradients, *self.trained)

    def _trace(
        self, state: Sequence[Tensor], batch: Sequence[Tensor], scaled: Sequence[Tensor] = ()
    ) -> fx.GraphModule | None:
        module = self.members.module
        attributes = _attributes(module)
        if attributes is None:
            return None
        watched = _Watched()
        # All that the trace changes is a copy.
        inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in (*state, *batch, *scaled)]
        generators = random.getstate(), np.random.get_state(legacy=False)
        try:
            with torch.random.fork_rng([x.device for x in inputs[:1] if x.is_cuda]):
                copied = copy.deepcopy(module)
                copied._trainer = watched  # type: ignore[assignment]
                members = type(self.members)(copied, self.members.streams, self.members.share)
                before, n, end = _attributes(copied), len(state), len(state) + len(batch)
                autocast = torch.autocast(state[0].device.type, self.autocast, cache_enabled=False)
                with autocast if self.autocast else nullcontext():
                    graph = traced(lambda *x: members.losses_and_gradients(x[:n], x[n:end], *x[end:]), inputs)
        except Exception:  # the loss itself raises it again
            return None
        after = random.getstate(), np.random.get_state(legacy=False)
        if _frozen(after, {}) != _frozen(generators, {}):
            random.setstate(generators[0])
            np.random.set_state(generators[1])
            return None
        if watched.used or _attributes(copied) != before:
            return None
        self._attributes = attributes
        self.trained = [each for each in state if each.requires_grad]
        return graph


class _Watched:
    """Takes the place of a Trainer and notes whether it is used."""

    def __init__(self) -> None:
        self.used = False

    def __getattr__(self, name: str) -> Any:
        self.used = True
        raise AttributeError(name)


def _attributes(member: nn.Module) -> Any:
    """Return all attributes of a module but tensors in a form that can be compared; None if it has hooks."""
    seen: dict[int, int] = {}
    values: list[Any] = []
    for path, module in member.named_modules():
        for name, value in vars(module).items():
            if name.endswith("hooks") and value:
                return None
            if name not in STATE or name == "_hparams":
                values.append((path, name, _frozen(value, seen)))
        values += [(path, parameter.requires_grad) for parameter in module.parameters(recurse=False)]
    return values


def _frozen(value: Any, seen: dict[int, int]) -> Any:
    """Return the content of a value, as far as it can be seen, in a form that can be compared."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (float, complex)):
        return repr(value)  # NaN is not equal to itself
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, nn.Module | ModuleType):
        return id(value)
    if id(value) in seen:
        return "seen", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(_frozen(key, seen), _frozen(item, seen)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [_frozen(item, seen) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(repr(_frozen(item, seen)) for item in value)
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return id(value.__code__), [_frozen(cell, seen) for cell in cells]
    return type(value), id(value), _frozen(getattr(value, "__dict__", None), seen)
