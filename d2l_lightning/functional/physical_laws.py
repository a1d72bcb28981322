"""Planck's law, in units in which its numbers are neither huge nor tiny."""

import math

import torch
from torch import Tensor

# The exact values that define the SI units: BIPM, "The International System of Units", 9th edition (2019).
PLANCK = 6.62607015e-34  # h, in J s
LIGHT = 299_792_458.0  # c, in m / s
BOLTZMANN = 1.380649e-23  # k, in J / K
# With wavelengths in micrometres and densities in kilowatts per square metre, steradian and nanometre.
_LOG_FACTOR = math.log(2 * PLANCK * LIGHT**2 * 1e30 * 1e-12)
_EXPONENT = PLANCK * LIGHT / BOLTZMANN * 1e6  # h c / k, in micrometres times kelvin


def log_spectral_density(wavelength: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the logarithm of the spectral density of a black body's radiation; the arguments broadcast.

    Where the density itself is 0 in the precision of the tensors, its logarithm and derivatives are not.

    Args:
        wavelength: In micrometres.
        temperature: In kelvin.

    Source: Section 3.4.6, exercise 3.
    """
    x = _EXPONENT / (wavelength * temperature)
    # log(exp(x) - 1) without the exponential of a large x
    return _LOG_FACTOR - 5 * wavelength.log() - x - torch.log(-torch.expm1(-x))


def spectral_density(wavelength: Tensor, temperature: Tensor | float) -> Tensor:
    """Return the spectral density of a black body's radiation, in kW per square metre, steradian and nm.

    For the arguments and the source see ``log_spectral_density``.

    Example:
        >>> spectral_density(torch.tensor([0.5, 1.0]), 5772.0)  # the sun
        tensor([26.2385, 10.7362])
    """
    return log_spectral_density(wavelength, temperature).exp()
