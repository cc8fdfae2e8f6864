"""Whole models through the verbs: quantize or plan, compile, run; every product bit for bit, the rest by cosine.

    python benchmarks/models/check_models.py [MODEL ...] [--forms w8a8 w4a8.o2.g50 plan] [--output FILE.md]

"plan" is a mixed solver plan for x86_avx512_vnni whose weights may take 0.7 of their size at 8 bits. Each product
is compiled alone and compared with the torch operator on codes over their whole range (tolerance 0); the whole
network is compared with the torch quantized model on one random input. Weights are random where no pretrained
ones are at hand. All times are upper bounds, taken once on a machine that may be busy: `latency.py` measures.
Finished cases are kept in OUTPUT.jsonl and not made again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

from timing import table

from hwsim.compile.check import unequal_products
from hwsim.compile.isa import host_isa
from hwsim.model.load import load_model
from hwsim.runtime import load
from hwsim.stages.compile import CompileRequest, run_compile
from hwsim.stages.quantize import QuantizeRequest, run_quantize
from quant.ensemble import runnable

MODELS = ("vit_b", "vit_t", "deit_t", "swin_t", "resnet18", "resnet50", "mobilenet_v2", "regnetx_600mf",
          "bert_base", "opt_125m")  # fmt: skip
FORMS = ("w8a8", "w4a8.o2.g50", "plan")
HEAD = ("model", "form", "steps", "kernels", "integer MACs", "products bit-equal", "cosine", "compile s", "again s",
        "load s", "weights MB", "arena MB", "latency ms")  # fmt: skip


def weight_budget(model):
    """MiB that 0.7 of the weights at 8 bits take."""
    return 0.7 * sum(layer.params for layer in model.graph.products()) / 2**20


def solver_plan(name, model, folder):
    """A mixed plan by the verb `hwsim plan`."""
    program = "import sys; from hwsim.cli.main import run; sys.exit(run(sys.argv[1:]))"
    subprocess.run(
        [sys.executable, "-c", program, "plan", "--target", "x86_avx512_vnni", "--model", name,
         "--max-weight-memory", f"{weight_budget(model):.2f}MiB", "-o", str(folder)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return folder / "plan.json"


def random_inputs(model):
    """One input like the model's example, normal or with random tokens."""
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(x.shape, generator=generator)
        if x.is_floating_point()
        else (torch.randint(1, 1000, x.shape, generator=generator) if int(x.max()) > 1 else x)
        for x in model.example_inputs
    ]


def timed(call):
    """Result and seconds."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def case(name, form, folder):
    """One model in one form; returns the cells of its row."""
    model = load_model(name)
    plan = solver_plan(name, model, folder / "plan") if form == "plan" else None
    scheme = None if plan else form
    made = run_quantize(
        QuantizeRequest(output_dir=folder / "q", plan=plan, scheme=scheme, model=name, batch=1)
    )
    request = CompileRequest(output_dir=folder / "art", quantized=folder / "q")
    result, compile_seconds = timed(lambda: run_compile(request))
    _, again_seconds = timed(lambda: run_compile(request))
    runner, load_seconds = timed(lambda: load(folder / "art"))
    inputs = random_inputs(model)
    found = next(iter(runner(*[x.numpy() for x in inputs]).values())).ravel().astype(np.float64)
    with torch.no_grad():
        expected = runnable(made.model)(*inputs)
    expected = (expected[0] if isinstance(expected, tuple) else expected).numpy().ravel().astype(np.float64)
    cosine = float(found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected)))
    times = sorted(timed(runner.run)[1] for _ in range(7))
    count, wrong = unequal_products(made.model.integer(), host_isa())
    manifest = result.manifest
    return {
        "model": name, "form": form, "steps": manifest["steps"], "kernels": manifest["kernels"],
        "integer MACs": f"{100 * manifest['integer']['integer_share']:.2f} %",
        "products bit-equal": f"{count - len(wrong)} of {count}" + "".join(f", not {w}" for w in wrong[:3]),
        "cosine": f"{cosine:.6f}", "compile s": f"{compile_seconds:.1f}", "again s": f"{again_seconds:.1f}",
        "load s": f"{load_seconds:.3f}", "weights MB": f"{runner.weight_bytes / 1e6:.1f}",
        "arena MB": f"{runner.arena_bytes / 1e6:.1f}", "latency ms": f"{1e3 * times[3]:.1f}",
    }  # fmt: skip


def main():
    """Run all cases, print and write the table; exit code 1 if a case failed or a product differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--forms", nargs="*", default=FORMS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    journal = options.output.with_suffix(".jsonl") if options.output else None
    lines = journal.read_text(encoding="utf-8").splitlines() if journal and journal.exists() else []
    done = {(row["model"], row["form"]): row for row in map(json.loads, lines)}
    failed = False
    for name in options.models:
        for form in options.forms:
            if (name, form) not in done:
                with tempfile.TemporaryDirectory() as scratch:
                    try:
                        done[name, form] = case(name, form, Path(scratch))
                    except Exception as error:
                        print(f"{name} {form}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                        failed = True
                        continue
                if journal:
                    with journal.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(done[name, form]) + "\n")
            row = done[name, form]
            failed |= "not" in row["products bit-equal"]
            print(*(row[key] for key in HEAD), sep="  ", flush=True)
    rows = [[done[n, f][key] for key in HEAD] for n in MODELS for f in FORMS if (n, f) in done]
    text = "# Whole models, compiled and run\n\nCommand: `python benchmarks/models/check_models.py --output FILE.md`; "
    text += "two-core x86-64 with AVX-512 VNNI, one thread, batch 1, random weights (seed 0).\n"
    text += "Times are upper bounds: other work ran beside. Cosine is against the torch quantized model.\n\n"
    text += table(HEAD, rows)
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
