"""The computational graph that autograd keeps, as operators between named variables (Section 4.7.2)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Operator(NamedTuple):
    """The functions of autograd that compute a variable from others, from the last function to the first."""

    functions: list[str]
    inputs: list[str]
    output: str


def operators(variables: Mapping[str, Tensor]) -> list[Operator]:
    """Return how variables depend on each other, read from autograd's graph.

    The variables, by name, are leaves of the graph, results of functions, and tensors that functions have
    saved, such as classes. Results that are not among them are passed over.
    """
    results = {v.grad_fn: name for name, v in variables.items() if v.grad_fn is not None}
    saved = {v.untyped_storage().data_ptr(): name for name, v in variables.items() if not v.requires_grad}
    leaves = {id(v): name for name, v in variables.items() if v.grad_fn is None}
    found = []
    for root, output in results.items():
        functions: list[str] = []
        inputs: list[str] = []
        queue: list[Any] = [root]
        while queue:
            node = queue.pop(0)
            functions.append(node.name().removesuffix("0").removesuffix("Backward"))
            tensors = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
            pointers = [t.untyped_storage().data_ptr() for t in tensors if isinstance(t, Tensor)]
            inputs += [saved[pointer] for pointer in pointers if pointer in saved]
            for previous, _ in node.next_functions:
                if previous in results:
                    inputs.append(results[previous])
                elif hasattr(previous, "variable"):
                    inputs.append(leaves[id(previous.variable)])
                elif previous is not None:
                    queue.append(previous)
        found.append(Operator(functions, list(dict.fromkeys(inputs)), output))
    return found


def count_functions(*tensors: Tensor) -> int:
    """Return the number of autograd's functions in the graph that computes tensors, without their leaves."""
    nodes: set[Any] = set()
    queue = [tensor.grad_fn for tensor in tensors]
    while queue:
        node = queue.pop()
        if node is not None and node not in nodes and not hasattr(node, "variable"):
            nodes.add(node)
            queue += [previous for previous, _ in node.next_functions]
    return len(nodes)
