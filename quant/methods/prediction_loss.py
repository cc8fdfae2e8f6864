"""Losses of PD-Quant (methods.md 3.3): prediction difference, reconstruction, rounding regulariser.

L = L_reg + w L_round + L_PD / lambda_r; the sum, and how its gradients meet, is in pd_training.py.
"""

from torch import Tensor

from quant.predictions import class_axis, mean_square


def prediction_difference(
    exact: Tensor, quantized: Tensor, temperature: float = 1.0, power: float | None = None
) -> Tensor:
    """``KL(softmax(z_fp / T) || softmax(z_q / T))``, mean over all predictions, no T^2 factor."""
    return prediction_differences(exact, quantized, temperature, power).mean()


def prediction_differences(
    exact: Tensor, quantized: Tensor, temperature: float = 1.0, power: float | None = None
) -> Tensor:
    """The same of every prediction; where there are no classes, squared errors by the mean square of the exact ones.

    ``power`` is that mean square where more outputs are known than these.
    """
    axis = class_axis(exact)
    if axis is None:
        return (quantized - exact).square() / (mean_square(exact) if power is None else power)
    left = (exact / temperature).log_softmax(axis)
    right = (quantized / temperature).log_softmax(axis)
    share = left.exp()
    return (share * (left - right)).where(share > 0, 0.0).sum(axis)  # a class ruled out has no part in it


def reconstruction(output: Tensor, target: Tensor, channel_axis: int = 1) -> Tensor:
    """Squared error summed over channels, averaged over samples and positions."""
    return (output - target).square().sum(channel_axis).mean()


def rounding_temperature(iteration: int, iterations: int, warmup: float = 0.2) -> float | None:
    """beta, linear from 20 to 2 after the warm-up; None while the regulariser is off."""
    start = warmup * iterations
    if iteration < start:
        return None
    progress = (iteration - start) / max(iterations - start, 1)
    return 2.0 + 18.0 * max(0.0, 1.0 - progress)


def rounding_regulariser(soft: Tensor, beta: float) -> Tensor:
    """``sum(1 - |2h - 1|^beta)``: pushes soft rounding to 0 or 1."""
    return (1 - (2 * soft - 1).abs().pow(beta)).sum()
