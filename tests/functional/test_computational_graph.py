"""Operators between named variables, read from autograd's graph."""

import torch

from d2l_lightning.functional.backpropagation import Parameters
from d2l_lightning.functional.computational_graph import count_functions, operators
from d2l_lightning.models.backpropagation import BackpropagationMLP
from d2l_lightning.plots.backpropagation import POSITIONS


def test_the_graph_of_the_perceptron_is_that_of_the_section() -> None:
    model = BackpropagationMLP(9, 3, 4, lambd=0.1)
    y = torch.tensor([0, 1, 2])
    found = {
        each.output: each for each in operators({**model.autograd_variables(torch.rand(3, 9), y), "y": y})
    }
    inputs = {name: set(operator.inputs) for name, operator in found.items()}
    assert inputs == {
        **{"z": {"X", "W1", "b1"}, "h": {"z"}, "o": {"h", "W2", "b2"}, "L": {"o", "y"}},
        **{"s": {"W1", "W2"}, "J": {"L", "s"}},
    }
    assert found["h"].functions == ["Relu"]
    assert found["L"].functions == ["NllLoss", "LogSoftmax"]
    assert set(found) | set.union(*inputs.values()) == set(POSITIONS)
    assert set(Parameters._fields) <= set(POSITIONS)


def test_variables_that_are_not_given_are_passed_over() -> None:
    w = torch.ones(3, requires_grad=True)
    a = w * 2
    b = a.exp()
    (of_a, of_b) = operators({"w": w, "a": a, "b": b})
    assert (of_a.inputs, of_a.output, of_b.inputs, of_b.functions) == (["w"], "a", ["a"], ["Exp"])
    (of_b,) = operators({"w": w, "b": b})
    assert (of_b.inputs, of_b.functions) == (["w"], ["Exp", "Mul"])


def test_functions_of_a_graph_are_counted_once_and_without_leaves() -> None:
    w = torch.ones(3, requires_grad=True)
    a = w * 2
    assert count_functions(w.detach()) == 0
    assert count_functions(a) == 1
    b = a.exp()
    assert count_functions(b, a) == 2
    assert count_functions(b + b.sin()) == 4  # Mul, Exp, Sin, Add
