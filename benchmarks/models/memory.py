"""Load time and resident memory of artifacts, each in fresh processes that run it without the compiler.

    python benchmarks/models/memory.py vit_b resnet50 mobilenet_v2 bert_base [--scheme w8a8] [--output FILE.md]

Memory is what the process holds more after loading and one inference than with numpy and tvm-ffi imported (which
imports torch where it is installed); it is compared with the artifact's weights and its arena of activations. Loading
includes the check of every file's hash.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

from timing import table

from hwsim.stages.compile import CompileRequest, run_compile

PROBE = """
import json, re, sys, time
import numpy, tvm_ffi
from hwsim.runtime import load

def resident():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

before, start = resident(), time.perf_counter()
model = load(sys.argv[1])
seconds = time.perf_counter() - start
model(*[numpy.zeros(port.shape, port.dtype) for port in model.inputs])
own = model.weight_bytes, model.arena_bytes
print(json.dumps([seconds, resident() - before, *own, "tvm" in sys.modules]))
"""
HEAD = ("model", "load s", "memory MB", "weights MB", "arena MB", "memory / (weights + arena)")


def probed(folder: Path, rounds: int) -> list[str]:
    """The cells of one artifact: medians over fresh processes; memory is the peak."""
    found = []
    for _ in range(rounds):
        run = subprocess.run(
            [sys.executable, "-c", PROBE, str(folder)], check=True, capture_output=True, text=True
        )
        found.append(json.loads(run.stdout))
    assert not any(heavy for *_, heavy in found), "the runtime imported the compiler"
    seconds, held = (statistics.median(values) for values in list(zip(*found, strict=True))[:2])
    weights, arena = found[0][2:4]
    sizes = [f"{size / 1e6:.1f}" for size in (held, weights, arena)]
    return [f"{seconds:.3f}", *sizes, f"{held / (weights + arena):.2f}"]


def main() -> None:
    """Compile each model, measure it, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--scheme", default="w8a8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "artifact"
            run_compile(CompileRequest(folder, scheme=args.scheme, model=name, threads=1, samples=2))
            rows.append([name, *probed(folder, args.rounds)])
        print(*rows[-1], flush=True)
    if args.output is not None:
        command = f"python benchmarks/models/memory.py {' '.join(args.models)} --scheme {args.scheme}"
        lines = [
            "# Load time and memory of artifacts",
            "",
            f"Command: `{command}`; medians of {args.rounds} processes.",
        ]
        args.output.write_text("\n".join([*lines, "", table(HEAD, rows), ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
