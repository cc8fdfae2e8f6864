"""Weight error of residual expansion against its order, measured and bounded, family by family.

    python benchmarks/pipe_convergence.py [--models NAME ...] [--output reports/pipe]

For each network: order 1 to 4 at 2, 3, 4 and 8 bits. `error` is the relative squared error of all product weights,
`sup` the largest error of any weight over the largest weight of its layer, `bound` what the proof allows for it;
both are the worst layer. The last column is the native width of the same number of bits, where it is at most 8.
Writes convergence.md, convergence.json and one plot.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from hwsim.model.load import load_model
from quant.profile import profile_layer
from quant.scheme import Scheme

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {
    "vit_t": "vit_tiny_patch16_224",
    "mobilenet_v2": "mobilenetv2_100_tfslim",
    "resnet18": None,
    "deit_t": None,
    "swin_t": None,
    "regnetx_600mf": None,
    "bert_base": None,
    "opt_125m": None,
}
WIDTHS, ORDERS = (2, 3, 4, 8), (1, 2, 3, 4)


def options() -> list[Scheme]:
    """Bit widths and orders that float32 can resolve."""
    return [Scheme(b, 8, order=k) for b in WIDTHS for k in ORDERS if (2**b - 1) ** (k - 1) < 2**23]


def converge(spec: str, weights: Path | None) -> dict:
    """Profile one network."""
    model = load_model(spec, weights=weights)
    state = model.module.state_dict()
    schemes = [*options(), Scheme(6, 8)]
    error = dict.fromkeys(schemes, 0.0)
    worst = {scheme: [0.0, 0.0] for scheme in schemes}
    energy = 0.0
    for layer in model.graph.products():
        if layer.weight is None:
            continue
        weight = state[layer.weight].detach().float().numpy()
        peak = float(np.abs(weight).max()) or 1.0
        energy += float(np.square(weight, dtype=np.float64).sum())
        for option in profile_layer(weight, schemes):
            error[option.scheme] += option.weight_error
            pair = worst[option.scheme]
            pair[0], pair[1] = max(pair[0], option.measured_sup / peak), max(pair[1], option.sup_bound / peak)
    rows = {str(s): {"error": error[s] / energy, "sup": worst[s][0], "bound": worst[s][1]} for s in schemes}
    return {"model": model.resolved, "weights": model.weights.kind, "rows": rows}


def native(found: dict, bits: int) -> str:
    """Error of the plain width that spends the same number of bits."""
    row = found["rows"].get(f"w{bits}a8")
    return f"w{bits}: {row['error']:.1e}" if row else "-"


def markdown(results: list[dict]) -> str:
    """One table for each network."""
    lines = ["# Residual expansion: error against order", "", __doc__.split("\n\n")[2].replace("\n", " "), ""]
    for found in results:
        note = "" if found["weights"] in ("file", "pretrained") else " (random weights: illustrative)"
        lines += [f"## {found['model']}{note}", "", "| scheme | error | sup | bound | native of equal bits |"]
        lines += ["|---|---|---|---|---|"]
        for scheme in options():
            row = found["rows"][str(scheme)]
            bits = scheme.weight_bits * scheme.order
            cells = f"{row['error']:.1e} | {row['sup']:.1e} | {row['bound']:.1e} | {native(found, bits)}"
            lines.append(f"| {scheme} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def plot(results: list[dict], path: Path) -> None:
    """Largest error and its bound against the order."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "hwsim"
    import matplotlib.pyplot as plt

    columns = min(4, len(results))
    lines = -(-len(results) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.4 * columns, 3.0 * lines), squeeze=False, sharey=True
    )
    for axis, found in zip(axes.flat, results, strict=False):
        for number, bits in enumerate(WIDTHS):
            schemes = [s for s in options() if s.weight_bits == bits]
            for name, style in (("sup", "o-"), ("bound", "--")):
                values = [found["rows"][str(s)][name] for s in schemes]
                label = f"{bits} bit" if name == "sup" else None
                axis.semilogy(
                    [s.order for s in schemes], values, style, color=f"C{number}", ms=3, label=label
                )
        axis.set_title(found["model"].split(":")[-1].split(".")[0], fontsize=8)
        axis.set_xticks(ORDERS)
        axis.set_xlabel("order")
    for axis in list(axes.flat)[len(results) :]:
        axis.set_visible(False)
    axes[0, 0].set_ylabel("largest error / largest weight\n(dashed: bound)")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Read the command line, profile, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(FAMILIES))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--output", type=Path, default=ROOT / "reports" / "pipe")
    arguments = parser.parse_args()
    results = []
    for spec in arguments.models:
        stored = FAMILIES.get(spec)
        path = arguments.shared / "data" / "models" / f"{stored}.safetensors"
        results.append(converge(spec, path if stored and path.exists() else None))
        print(results[-1]["model"], results[-1]["weights"], flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "convergence.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.output / "convergence.md").write_text(markdown(results))
    plot(results, arguments.output / "convergence.svg")


if __name__ == "__main__":
    main()
