"""Perplexity of a real small LLaMA (stories260K) under weight-only recipes.

    python benchmarks/accuracy/stories.py --stories 100

Writes reports/accuracy/stories260k.md. Calibration stories are not evaluated; the tied head and the embedding
stay in float, as do the attention products.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
from report import write_table

from hwsim.model.load import load_model
from quant.methods.interpret import GraphRunner
from quant.pipeline import apply_recipe
from quant.recipe import Recipe
from quant.scheme import Scheme

RECIPES = [
    "rtn",
    "mse",
    "mse+bc",
    "mse+gptq",
    "mse+gptq+bc",
    "mse+gptq+asymmetric+bc",
    "pipe",
    "mse+gptq+pipe+bc",
]


def main():
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stories", type=int, default=100)
    parser.add_argument("--calibration", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("reports/accuracy/stories260k.md"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    factory = Path(__file__).resolve().parent / "networks.py"
    module = load_model(f"{factory}:stories260k", batch=args.batch).module
    runner = GraphRunner(module)
    names = [p.name for p in runner.products.values() if p.kind != "matmul" and "lm_head" not in p.name]
    count = args.stories // args.batch * args.batch
    test = datasets.tiny_stories(args.length, count)
    calibration = datasets.tiny_stories(args.length, args.calibration, start=1000).batches(args.batch)
    with torch.no_grad():
        exact = torch.cat([runner.logits(batch) for batch in test.batches(args.batch)])
    reference, mask = datasets.perplexity(exact, test.labels), test.labels >= 0
    rows = [["fp", "", f"{reference:.3f}", "0", ""]]
    for bits in args.bits:
        for recipe in args.recipes:
            start = time.perf_counter()
            scheme = Scheme(bits, None)
            result = apply_recipe(module, dict.fromkeys(names, scheme), calibration, Recipe.parse(recipe))
            seconds = time.perf_counter() - start
            logits = torch.cat([result.logits(batch) for batch in test.batches(args.batch)])
            kl = datasets.kl_to_float(exact, logits, mask)
            rows.append(
                [
                    f"w{bits}",
                    recipe,
                    f"{datasets.perplexity(logits, test.labels):.3f}",
                    f"{kl:.4f}",
                    f"{seconds:.0f}",
                ]
            )
            print(*rows[-1], sep="  ", flush=True)
            write_table(
                args.output,
                "stories260K: weight-only recipes",
                [
                    f"Command: `python benchmarks/accuracy/stories.py {' '.join(sys.argv[1:])}`",
                    f"Perplexity over {count} stories cut at {args.length} tokens (real text, real weights); "
                    f"{args.calibration} other stories calibrate. `pipe` is expansion order 2: twice the weight bits.",
                ],
                ["weights", "recipe", "perplexity", "KL to float", "calibration s"],
                rows,
            )


if __name__ == "__main__":
    main()
