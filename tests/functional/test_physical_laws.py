"""Planck's law against its formula in SI units, and SciPy's constants."""

import numpy as np
import pytest
import torch
from scipy import constants

from d2l_lightning.functional import physical_laws


def test_the_constants_are_those_of_scipy() -> None:
    values = physical_laws.PLANCK, physical_laws.LIGHT, physical_laws.BOLTZMANN
    assert values == (constants.h, constants.c, constants.k)


@pytest.mark.parametrize("temperature", [300.0, 5772.0, 50000.0])
def test_the_spectral_density_is_that_of_the_formula_in_si_units(temperature: float) -> None:
    wavelength = np.linspace(0.2, 20, 50)
    metres = wavelength * 1e-6
    exponent = constants.h * constants.c / (metres * constants.k * temperature)
    watts = 2 * constants.h * constants.c**2 / metres**5 / np.expm1(exponent)  # per cubic metre and steradian
    found = physical_laws.spectral_density(torch.from_numpy(wavelength), temperature)
    torch.testing.assert_close(found, torch.from_numpy(watts * 1e-9 * 1e-3))


def test_the_logarithm_holds_in_single_precision_where_the_density_is_0() -> None:
    temperature = torch.tensor(100.0, requires_grad=True)
    log_density = physical_laws.log_spectral_density(torch.tensor(0.2), temperature)
    log_density.backward()
    assert log_density.exp() == 0
    assert log_density.item() == pytest.approx(-706.5612, abs=1e-3)
    assert temperature.grad is not None
    assert temperature.grad.item() == pytest.approx(7.1939, abs=1e-3)
