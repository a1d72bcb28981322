"""Noisy measurements of an electric current and of a black body's radiation, with known constants."""

import torch

from d2l_lightning.data.batches import data_generator
from d2l_lightning.data.regression import RegressionData
from d2l_lightning.errors import require_not_negative, require_positive
from d2l_lightning.functional.physical_laws import spectral_density


class OhmData(RegressionData):
    """Currents from 0 to 0.1 amperes, shape ``(n, 1)``, and voltages in volts, measured with normal noise.

    Args:
        resistance: The true resistance, in ohms.
        voltage_noise: Standard deviation of the noise, in volts.
        num_train: Number of measurements, all of which are for training.
        batch_size: Measurements in a batch.
        seed: Seed of the measurements and of their order.

    Source: Section 3.4.6, exercise 2.
    """

    def __init__(
        self,
        resistance: float = 220.0,
        voltage_noise: float = 1.0,
        num_train: int = 200,
        batch_size: int = 20,
        seed: int = 0,
    ) -> None:
        require_positive(resistance=resistance, num_train=num_train)
        require_not_negative(voltage_noise=voltage_noise)
        self.constant = float(resistance)
        generator = data_generator(seed)
        current = 0.1 * torch.rand(num_train, generator=generator)
        noise = voltage_noise * torch.randn(num_train, generator=generator)
        super().__init__(current[:, None], resistance * current + noise, num_train, batch_size, seed)


class PlanckData(RegressionData):
    """Wavelengths from 0.2 to 3 micrometres, shape ``(n, 1)``, and spectral densities of a black body.

    The densities are in kilowatts per square metre, steradian and nanometre. Each is multiplied by the
    exponential of normal noise, so that it is positive.

    Args:
        temperature: The true temperature, in kelvin.
        density_noise: Standard deviation of the noise: 0.05 for errors of about 5 %.
        num_train: Number of measurements, all of which are for training.
        batch_size: Measurements in a batch.
        seed: Seed of the measurements and of their order.

    Source: Section 3.4.6, exercise 3.
    """

    def __init__(
        self,
        temperature: float = 5772.0,
        density_noise: float = 0.05,
        num_train: int = 200,
        batch_size: int = 20,
        seed: int = 0,
    ) -> None:
        require_positive(temperature=temperature, num_train=num_train)
        require_not_negative(density_noise=density_noise)
        self.constant = float(temperature)
        generator = data_generator(seed)
        wavelength = 0.2 + 2.8 * torch.rand(num_train, generator=generator)
        noise = (density_noise * torch.randn(num_train, generator=generator)).exp()
        density = spectral_density(wavelength, temperature) * noise
        super().__init__(wavelength[:, None], density, num_train, batch_size, seed)
