"""Does the predicted divergence rank assignments as the measured one does? ViT-Tiny, real weights and images.

    python benchmarks/profile_prediction.py [--assignments 24] [--calibration 16] [--images 32] [--shared ../shared]

Random assignments of weight bits, orders and activation bits to all products (budgets from generous to tight).
Predicted: sensitivities from calibration images or from seeded synthetic images. Measured: mean KL against float
on other images, weights expanded and activations quantized per tensor. Prints Spearman correlations.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx

from hwsim.model.load import load_model
from quant.expansion import expand
from quant.observe import synthetic_inputs
from quant.profile import profile_layer
from quant.ranges import mse_affine_ranges
from quant.scheme import Scheme
from quant.sensitivity import PRODUCTS, Sensitivity, measure_sensitivity

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8
ACT_BITS = (4, 5, 6, 8)
WEIGHTS = tuple(
    Scheme(b, None, order=k) for b, k in ((2, 2), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (6, 1), (8, 1))
)


def images(archive: Path, count: int) -> Tensor:
    """Evenly spaced images of an archive, centre-cropped, mean and deviation 0.5."""
    from PIL import Image

    stored = zipfile.ZipFile(archive)
    names = [line.rsplit(",", 1)[0] for line in stored.read("labels.csv").decode().strip().splitlines()[1:]]
    found = []
    for name in names[:: len(names) // count][:count]:
        picture = np.asarray(Image.open(io.BytesIO(stored.read(name))).convert("RGB"))
        top, left = (picture.shape[0] - 224) // 2, (picture.shape[1] - 224) // 2
        crop = torch.tensor(picture[top : top + 224, left : left + 224]).permute(2, 0, 1)
        found.append((crop / 255 - 0.5) / 0.5)
    return torch.stack(found)


class Watch(fx.Interpreter):
    """Finds activation ranges (`ranges` empty) or quantizes by them."""

    def __init__(self, module, ranges, weights=None, assignment=None) -> None:
        super().__init__(module)
        self.ranges, self.weights, self.assignment = ranges, weights, assignment

    def run_node(self, n: fx.Node):
        """Quantize the operands of products."""
        if n.op != "call_function" or n.target not in PRODUCTS or "layer" not in n.meta:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operands, name = list(args), n.meta["layer"]
        activations = 2 if n.target is torch.ops.aten.matmul.default else 1
        for i in range(activations):
            if self.assignment is None:
                self.ranges[name, i] = dict(zip(ACT_BITS, mse_affine_ranges(args[i], ACT_BITS), strict=True))
            else:
                operands[i] = args[i] + self.ranges[name, i][self.assignment[name].act_bits].error(args[i])
        if self.assignment is not None and activations == 1:
            scheme = self.assignment[name]
            operands[1] = self.weights[name, scheme.weight_bits, scheme.order].reshape(args[1].shape)
        return n.target(*operands, **kwargs)


def draw(generator: np.random.Generator, names: list[str], least: int) -> dict[str, Scheme]:
    """One random assignment around a random budget, activations of at least `least` bits."""
    widths = [bits for bits in ACT_BITS if bits >= least]
    weight_level, act_level = (
        generator.uniform(1, len(WEIGHTS) - 1),
        generator.uniform(0.5, len(widths) - 0.6),
    )
    chosen = {}
    for name in names:
        weight = WEIGHTS[int(np.clip(round(weight_level + generator.normal() * 1.5), 0, len(WEIGHTS) - 1))]
        act = widths[int(np.clip(round(act_level + generator.normal()), 0, len(widths) - 1))]
        chosen[name] = Scheme(weight.weight_bits, act, order=weight.order)
    return chosen


def predicted(assignment: dict[str, Scheme], sensitivity: Sensitivity, losses: dict) -> float:
    """Sum of the predicted losses of all layers."""
    total = 0.0
    for name, scheme in assignment.items():
        total += sensitivity.layers[name].activation_loss(scheme.act_bits)
        total += losses.get((name, scheme.weight_bits, scheme.order), 0.0)
    return total


def weight_losses(sensitivity: Sensitivity, stored: dict[str, Tensor]) -> dict:
    """Predicted loss of every weight option."""
    found = {}
    for name, weight in stored.items():
        gradient = sensitivity.layers[name].squared_gradient
        for option in profile_layer(weight.numpy(), WEIGHTS, squared_gradient=gradient):
            found[name, option.scheme.weight_bits, option.scheme.order] = option.loss
    return found


def ranks(values: list[float]) -> np.ndarray:
    """Rank of each value."""
    return np.argsort(np.argsort(values)).astype(float)


def main() -> None:
    """Draw, predict, measure, correlate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assignments", type=int, default=24)
    parser.add_argument("--calibration", type=int, default=16)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--least", type=int, default=6, help="least activation bits")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    arguments = parser.parse_args()
    data = arguments.shared / "data"
    model = load_model("vit_t", weights=data / "models" / "vit_tiny_patch16_224.safetensors", batch=BATCH)
    module, state = model.module, model.module.state_dict()
    stored = {p.name: state[p.weight].detach() for p in model.graph.products() if p.weight is not None}
    calibration = images(data / "images" / "imagenet_calib_1000.zip", arguments.calibration).split(BATCH)
    pictures = images(data / "images" / "imagenet_val_a650.zip", arguments.images).split(BATCH)
    kinds = {
        "calibration": measure_sensitivity(module, [(x,) for x in calibration], act_bits=ACT_BITS, draws=2),
        "data-free": measure_sensitivity(module, synthetic_inputs(module), act_bits=ACT_BITS, draws=2),
    }
    losses = {kind: weight_losses(sensitivity, stored) for kind, sensitivity in kinds.items()}
    ranges: dict = {}
    expanded = {
        (name, s.weight_bits, s.order): expand(weight, s).weight()
        for name, weight in stored.items()
        for s in WEIGHTS
    }
    generator = np.random.default_rng(0)
    found: dict[str, list[float]] = {"measured": [], **{kind: [] for kind in kinds}}
    with torch.no_grad():
        Watch(module, ranges).run(calibration[0])
        reference = torch.cat([module(x)[0] for x in pictures]).log_softmax(-1)
        for _ in range(arguments.assignments):
            assignment = draw(generator, [p.name for p in model.graph.products()], arguments.least)
            runner = Watch(module, ranges, expanded, assignment)
            noisy = torch.cat([runner.run(x)[0] for x in pictures]).log_softmax(-1)
            found["measured"].append(float((reference.exp() * (reference - noisy)).sum(-1).mean()))
            for kind, sensitivity in kinds.items():
                found[kind].append(predicted(assignment, sensitivity, losses[kind]))
    print(f"measured KL from {min(found['measured']):.3f} to {max(found['measured']):.3f} nats")
    for kind in kinds:
        correlation = np.corrcoef(ranks(found["measured"]), ranks(found[kind]))[0, 1]
        ratio = np.median(np.array(found["measured"]) / np.array(found[kind]))
        print(f"{kind}: Spearman {correlation:.3f}, measured / predicted {ratio:.2f} (median)")


if __name__ == "__main__":
    main()
