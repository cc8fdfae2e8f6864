"""Does the predicted divergence rank plans as the measured one does? ViT-Tiny and MobileNetV2, real weights.

    python benchmarks/profile_prediction.py [--model vit_t|mobilenet_v2|all] [--plans 200] [--images 32]
                                            [--calibration 32] [--samples 4] [--shared ../shared]
                                            [--output reports/planner]

Random plans: each draws one level of weight precision and one of activation precision, uniform from coarsest to
finest, and every product takes an option normally distributed around them (deviation 1.5 and 1 options). So plans
are spread over budgets, and the layers of one plan differ. Measured: mean KL of the output from float on validation
images, weights expanded, activations on the per-tensor grids that ``hwsim quantize`` would take from the calibration
images. Predicted: the sum over layers of the error profile that ``hwsim plan`` makes without data, with
``--calibration-data``, and with ``--calibration-data --measured N``. Writes ``prediction.md``.
"""

import argparse
import io
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx

from hwsim.model.load import LoadedModel, load_model
from hwsim.stages.error_profile import ErrorProfile, profile_errors, synthetic_inputs
from hwsim.stages.measured_errors import measure_errors
from quant.expansion import expand
from quant.measured import divergence
from quant.observe import observe_ranges
from quant.ranges import AffineRange
from quant.scheme import Scheme
from quant.sensitivity import PRODUCTS, first_tensor

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8
SEED = 0


@dataclass(frozen=True)
class Subject:
    """A model with real weights and the options its plans are drawn from, coarsest first."""

    weights: str
    weight_options: tuple[tuple[int, int], ...]
    act_bits: tuple[int, ...]


SUBJECTS = {
    "vit_t": Subject(
        "vit_tiny_patch16_224", ((2, 2), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (6, 1), (8, 1)), (4, 5, 6, 8)
    ),
    "mobilenet_v2": Subject(
        "mobilenetv2_100_tfslim", ((3, 2), (4, 1), (5, 1), (4, 2), (6, 1), (8, 1), (10, 1)), (5, 6, 8, 10)
    ),
}


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


class Quantized(fx.Interpreter):
    """The float graph with quantized weights and operands in its products."""

    def __init__(self, module, ranges, weights, plan) -> None:
        super().__init__(module)
        self.ranges, self.weights, self.plan = ranges, weights, plan

    def run_node(self, n: fx.Node):
        """Quantize the operands of products."""
        if n.op != "call_function" or n.target not in PRODUCTS or "layer" not in n.meta:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operands, name = list(args), n.meta["layer"]
        scheme = self.plan[name]
        for i in range(2 if n.target is torch.ops.aten.matmul.default else 1):
            low, high = self.ranges[scheme.act_bits].of(f"{name}.in{i}")
            grid = AffineRange(min(low, 0.0), max(high, 0.0), scheme.act_bits)
            operands[i] = args[i] + grid.error(args[i])
        if (name, scheme.weight_bits, scheme.order) in self.weights:
            operands[1] = self.weights[name, scheme.weight_bits, scheme.order].reshape(args[1].shape)
        return n.target(*operands, **kwargs)


def draw(generator: np.random.Generator, offered: dict[str, list[list[Scheme]]]) -> dict[str, Scheme]:
    """One random plan; an offer is a table of weight options (rows) by activation widths."""
    rows = max(len(table) for table in offered.values())
    columns = max(len(table[0]) for table in offered.values())
    weight, act = generator.uniform(-0.5, rows - 0.5), generator.uniform(-0.5, columns - 0.5)
    plan = {}
    for name, table in offered.items():
        row = int(np.clip(round(weight + 1.5 * generator.normal()), 0, rows - 1))
        column = int(np.clip(round(act + generator.normal()), 0, columns - 1))
        plan[name] = table[min(row, len(table) - 1)][column]
    return plan


def offers(model: LoadedModel, subject: Subject) -> dict[str, list[list[Scheme]]]:
    """The options of every product; products of two activations choose only their width."""
    weighted = [[Scheme(b, a, order=k) for a in subject.act_bits] for b, k in subject.weight_options]
    plain = [[Scheme(a, a) for a in subject.act_bits]]
    return {p.name: weighted if p.weight is not None else plain for p in model.graph.products()}


def measured(model: LoadedModel, plans, subject: Subject, calibration, pictures) -> list[float]:
    """Mean KL from float of every plan."""
    state = model.module.state_dict()
    products = model.graph.products()
    weights = {
        (p.name, b, k): expand(state[p.weight].detach(), Scheme(b, None, order=k)).weight()
        for p in products
        if p.weight is not None
        for b, k in subject.weight_options
    }
    ranges = {
        bits: observe_ranges(
            model.module, {p.name: Scheme(bits, bits) for p in products}, calibration, method="mse"
        )
        for bits in subject.act_bits
    }
    found = []
    with torch.no_grad():
        floats = [first_tensor(model.module(x)) for x in pictures]
        for plan in plans:
            runner = Quantized(model.module, ranges, weights, plan)
            outputs = [first_tensor(runner.run(x)) for x in pictures]
            found.append(
                float(np.mean([divergence(f, o, "classes") for f, o in zip(floats, outputs, strict=True)]))
            )
    return found


def saturation(model: LoadedModel, batches) -> float:
    """Divergence of an output that has lost its input: from every prediction to their mean, in nats."""
    with torch.no_grad():
        logs = torch.cat([first_tensor(model.module(*batch)) for batch in batches]).double().log_softmax(-1)
    mean = logs.exp().mean(0).clamp_min(1e-12).log()
    return float((logs.exp() * (logs - mean)).sum(-1).mean())


def spearman(one, other) -> float:
    """Correlation of ranks."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def quantiles(values) -> str:
    """10 %, 50 % and 90 %."""
    return " / ".join(f"{value:.2f}" for value in np.quantile(values, [0.1, 0.5, 0.9]))


def study(name: str, options: argparse.Namespace) -> list[str]:
    """Profiles, plans and their correlation for one model; lines of the report."""
    subject, data = SUBJECTS[name], options.shared / "data"
    file = data / "models" / f"{subject.weights}.safetensors"
    model = load_model(name, weights=file, batch=BATCH)
    single = load_model(name, weights=file, batch=1)  # as hwsim plan loads it
    calibration = [
        (x,) for x in images(data / "images" / "imagenet_calib_1000.zip", options.calibration).split(BATCH)
    ]
    pictures = images(data / "images" / "imagenet_val_a650.zip", options.images).split(BATCH)
    offered = offers(model, subject)
    flat = [[scheme for row in table for scheme in row] for table in offered.values()]
    profiles: dict[str, tuple[ErrorProfile, float]] = {}

    def timed(kind: str, make) -> ErrorProfile:
        started = time.perf_counter()
        profile = make()
        profiles[kind] = (profile, time.perf_counter() - started)
        print(f"{name}: {kind} profile in {profiles[kind][1]:.0f} s", flush=True)
        return profile

    timed(
        "no data", lambda: profile_errors(single, flat, synthetic_inputs(single, SEED), data=None, seed=SEED)
    )
    said = f"{options.calibration} calibration images"
    fisher = timed("calibration data", lambda: profile_errors(model, flat, calibration, data=said, seed=SEED))
    few = [(x,) for x in torch.cat([x for (x,) in calibration])[: options.samples].split(1)]
    timed(
        f"calibration data, {options.samples} measured",
        lambda: measure_errors(single, fisher, few, compensation=False),
    )
    generator = np.random.default_rng(SEED)
    plans = [draw(generator, offered) for _ in range(options.plans)]
    started = time.perf_counter()
    real = np.array(measured(model, plans, subject, calibration, pictures))
    print(f"{name}: {len(plans)} plans measured in {time.perf_counter() - started:.0f} s", flush=True)
    ceiling, small = saturation(model, calibration), real < 1
    lines = [
        "# Predicted against measured divergence",
        "",
        f"`python benchmarks/profile_prediction.py --model {name} --plans {options.plans} --images {options.images} "
        f"--calibration {options.calibration} --samples {options.samples}`: random plans, trained weights "
        f"({subject.weights}) and images of `../shared/data`, seed {SEED}, two-core x86-64 with AVX-512 VNNI.",
        "",
        f"## {name}: {len(plans)} plans, measured KL {real.min():.3g} to {real.max():.3g} nats, "
        f"{int(small.sum())} of them below 1 nat",
        "",
        "| error profile | made in (s) | Spearman, all | below 1 nat | measured / predicted, 10 / 50 / 90 % "
        "| with saturation |",
        "|---|---|---|---|---|---|",
    ]
    for kind, (profile, seconds) in profiles.items():
        sums = np.array([sum(profile.layers[n].error(s) for n, s in plan.items()) for plan in plans])
        bounded = ceiling * (1 - np.exp(-sums / ceiling))
        lines.append(
            f"| {kind} | {seconds:.0f} | {spearman(real, sums):.3f} | {spearman(real[small], sums[small]):.3f} "
            f"| {quantiles(real / sums)} | {quantiles(real / bounded)} |"
        )
    lines += ["", f"Saturation: {ceiling:.2f} nats, the divergence of an output that has lost its input.", ""]
    return lines


def main() -> None:
    """Study the models and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=[*SUBJECTS, "all"], default="all")
    parser.add_argument("--plans", type=int, default=200)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "planner")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in SUBJECTS if options.model == "all" else [options.model]:
        lines = study(name, options)
        (options.output / f"prediction_{name}.md").write_text("\n".join(lines), encoding="utf-8")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
