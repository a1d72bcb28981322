"""The steps of a module that is trained alone, as CUDA graphs."""

from typing import Any

from d2l_lightning.ensemble.cuda_graph import CudaGraph
from d2l_lightning.ensemble.graph import LossGraph
from d2l_lightning.ensemble.vectorized import Single
from d2l_lightning.errors import InputError
from d2l_lightning.models.base import SupervisedModule


def step_graph(module: SupervisedModule, trainer: Any) -> LossGraph | None:
    """Return the graph with which a GPU replays the losses and gradients of a fit; None if it does not.

    Raises:
        InputError: If ``cuda_graphs`` of the module is True and there cannot be one.
    """
    if not module.cuda_graphs or module.num_members > 1:
        return None
    graph = LossGraph(Single(module))
    reason = CudaGraph.obstacle(trainer, graph.has_hooks())
    if reason is None and trainer.world_size > 1:
        reason = "one model in several processes; leave it out"
    if reason is None:
        graph.cuda_graphs = module.cuda_graphs
        return graph
    if module.cuda_graphs is True:
        raise InputError(f"cuda_graphs does not go with {reason}")
    return None
