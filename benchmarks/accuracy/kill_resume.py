"""Kill `hwsim quantize` with PD-Quant at random moments (SIGKILL), repeat the command, compare the files it writes.

    python benchmarks/accuracy/kill_resume.py

CIFAR-10 ResNet-20, w2a4, 128 calibration images; every unit writes a checkpoint at iteration 100 and at its end.
One run is left alone. Ten others are killed, each a seeded share of a checkpoint's time after a seeded checkpoint,
and the same command is repeated: `quantized.json` and `weights.safetensors` must be the same bytes. Writes
reports/accuracy/kill_resume.md after every run.
"""

import argparse
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
from report import write_table

HERE = Path(__file__).resolve().parent
CHECKPOINT = "pd.part"
PAGE = Path("reports/accuracy/kill_resume.md")


def command(folder: Path, data: Path, iterations: int) -> list[str]:
    """The user's command; its recipe lies beside the data."""
    recipe = data.with_name("recipe.yaml")
    recipe.write_text(f"steps: [mse, pd]\npd: {{iterations: {iterations}}}\n", encoding="utf-8")
    model = f"{HERE / 'networks.py'}:cifar10_resnet20"
    given = {"--model": model, "--scheme": "w2a4", "--recipe": recipe, "--calibration-data": data}
    flags = [str(part) for pair in given.items() for part in pair]
    program = str(Path(sys.executable).with_name("hwsim"))
    return [program, "quantize", *flags, "--samples", "128", "-q", "-o", str(folder)]


def digest(folder: Path) -> str:
    """Of both files of the model."""
    files = [(folder / name).read_bytes() for name in ("quantized.json", "weights.safetensors")]
    return hashlib.sha256(b"".join(files)).hexdigest()


def watched(
    process: "subprocess.Popen[bytes]", checkpoint: Path, stop_at: float = float("inf")
) -> tuple[int, float]:
    """Checkpoints that a run wrote, and the mean seconds between them; returns early at the asked number."""
    seen, times = set[int](), list[float]()
    while process.poll() is None and len(seen) < stop_at:
        with contextlib.suppress(FileNotFoundError):
            written = checkpoint.stat().st_mtime_ns
            if written not in seen:
                seen.add(written)
                times.append(time.monotonic())
        time.sleep(0.01)
    return len(seen), (times[-1] - times[0]) / max(1, len(times) - 1) if times else 0.0


def run(asked: list[str]) -> "subprocess.Popen[bytes]":
    """Start the command without its words."""
    return subprocess.Popen(asked, stdout=subprocess.DEVNULL)


def main() -> None:
    """Ten kills, ten comparisons."""
    parser = argparse.ArgumentParser(description="PD-Quant killed and resumed")
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=110)
    args = parser.parse_args()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        data, whole = place / "calibration.npz", place / "whole"
        samples = datasets.cifar10("calib_1000", datasets.CIFAR_RESNET).take(128, 0)
        np.savez(data, x=samples.inputs.numpy())
        with run(command(whole, data, args.iterations)) as process:
            count, interval = watched(process, whole / CHECKPOINT)
        wanted, draw = digest(whole), np.random.default_rng(0)
        for number in range(args.moments):
            folder = place / str(number)
            after, delay = int(draw.integers(1, count - 2)), float(draw.uniform())
            asked = command(folder, data, args.iterations)
            with run(asked) as process:
                watched(process, folder / CHECKPOINT, after)
                time.sleep(delay * interval)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            dead = process.returncode == -signal.SIGKILL and (folder / CHECKPOINT).exists()
            with run(asked) as process:
                pass
            same = "yes" if process.returncode == 0 and digest(folder) == wanted else "NO"
            rows.append([str(number + 1), f"{after} of {count}", "yes" if dead else "had ended", same])
            print(*rows[-1], flush=True)
            write_table(
                PAGE,
                "PD-Quant killed and resumed",
                [
                    "Command: `python benchmarks/accuracy/kill_resume.py`: `hwsim quantize --scheme w2a4` with recipe "
                    f"mse+pd, {args.iterations} iterations a unit, CIFAR-10 ResNet-20, 128 images. SIGKILL soon "
                    "after a seeded checkpoint, then the same command again.",
                    f"sha256 of both files of the run left alone: `{wanted[:16]}…`.",
                ],
                ["run", "checkpoint", "killed", "same bytes"],
                rows,
            )


if __name__ == "__main__":
    main()
