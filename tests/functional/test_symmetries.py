"""Changes of weights that leave a perceptron's outputs the same, and a nonlinearity that lacks them."""

import pytest
import torch

from d2l_lightning.functional import symmetries


def test_symmetries_leave_the_outputs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 4), (4, 3), (3,), (3, 2))
    tensors = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    errors = symmetries.symmetry_errors(*tensors)
    assert list(errors) == ["permutation", "sign", "scale"]
    assert max(errors.values()) < 1e-14
    # The sigmoid is neither odd nor proportional to its argument: two of the symmetries are lost.
    monkeypatch.setattr(symmetries, "tanh", torch.sigmoid)
    monkeypatch.setattr(symmetries, "relu", torch.sigmoid)
    lost = symmetries.symmetry_errors(*tensors)
    assert lost["permutation"] < 1e-14
    assert min(lost["sign"], lost["scale"]) > 0.01
