"""Plan every pair of the listed models and shipped targets, twice; report exit codes, seconds and equal bytes.

Usage: python benchmarks/all_pairs.py [--models vit_b,resnet18] [--targets edge_gpu] [--twice] [-o out/pairs]

The exit code is 1 when a pair ended otherwise than with 0 or 3, or when two plans with the same seed differ.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

from hwsim.cli.main import run
from hwsim.target.load import list_targets

MODELS = "vit_b,deit_t,swin_t,resnet18,resnet50,mobilenet_v2,regnetx_600mf,bert_base,opt_125m"


def main() -> None:
    """Plan the pairs and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--targets", default="")
    parser.add_argument("--twice", action="store_true", help="plan again and compare the bytes of plan.json")
    parser.add_argument("-o", "--output-dir", type=Path, default=Path("out/pairs"))
    options = parser.parse_args()
    targets = options.targets.split(",") if options.targets else [str(name) for name in list_targets()]
    wrong = 0
    for model in options.models.split(","):
        for target in targets:
            out = options.output_dir / f"{model}-{target}"
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            command = ["--quiet", "plan", "--target", target, "--model", model, "--json", "-o"]
            code = _silently([*command, str(out)])
            seconds = time.perf_counter() - start
            text = f"{model:14} {target:18} exit {code} {seconds:6.1f} s"
            if code == 0:
                report = json.loads((out / "report.json").read_text())
                text += f"  {report['validation']['simulated_cycles'] / report['clock_hz'] * 1e3:10.3f} ms"
                text += f"  {report['solver'][:60]}"
                if options.twice:
                    again = Path(f"{out}-again")
                    shutil.rmtree(again, ignore_errors=True)
                    repeated = _silently([*command, str(again)])
                    same = (
                        repeated == 0
                        and (out / "plan.json").read_bytes() == (again / "plan.json").read_bytes()
                    )
                    text += "  same bytes" if same else "  DIFFERENT BYTES"
                    wrong += not same
            wrong += code not in (0, 3)
            print(text, flush=True)
    raise SystemExit(wrong > 0)


def _silently(command: list[str]) -> int:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        return run(command)


if __name__ == "__main__":
    main()
