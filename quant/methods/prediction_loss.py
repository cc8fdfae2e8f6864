"""Losses of PD-Quant (methods.md 3.3): prediction difference, reconstruction, rounding regulariser.

L = L_reg + w L_round + L_PD / lambda_r; the sum, and how its gradients meet, is in pd_training.py.
"""

from torch import Tensor


def prediction_difference(exact: Tensor, quantized: Tensor, temperature: float = 1.0) -> Tensor:
    """``KL(softmax(z_fp / T) || softmax(z_q / T))``, mean over all predictions, no T^2 factor."""
    return prediction_differences(exact, quantized, temperature).mean()


def prediction_differences(exact: Tensor, quantized: Tensor, temperature: float = 1.0) -> Tensor:
    """The same of every prediction."""
    left = (exact / temperature).log_softmax(-1)
    right = (quantized / temperature).log_softmax(-1)
    return (left.exp() * (left - right)).sum(-1)


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
