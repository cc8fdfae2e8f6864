"""Profile a checkpoint larger than memory: writes synthetic shards, profiles them, reports the peak memory.

    python benchmarks/profile_streaming.py [--billions 7] [--folder DIR] [--keep]

The shards hold Llama-shaped layers in 16-bit floats (7 billion weights: 14 GB of disk). One block of random
rows is drawn per shard and tiled, for the writing must not take longer than the profiling.
"""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from quant.scheme import Scheme
from quant.streaming import profile_checkpoint

LAYER = {
    "attn.qkv": (12288, 4096),
    "attn.proj": (4096, 4096),
    "mlp.up": (22016, 4096),
    "mlp.down": (4096, 11008),
}
SCHEMES = [Scheme.parse(text) for text in ("w4a8", "w4a8.o2", "w4a8.o2.g50", "w8a8")]


def write(folder: Path, weights: float) -> int:
    """Write the shards; returns the number of weights."""
    per_layer = sum(rows * columns for rows, columns in LAYER.values())
    layers = max(1, round(weights / per_layer))
    for layer in range(layers):
        generator = torch.Generator().manual_seed(layer)
        block = torch.randn(128, 11008, generator=generator).mul_(0.02).to(torch.bfloat16)
        tensors = {}
        for name, (rows, columns) in LAYER.items():
            tensors[f"layers.{layer}.{name}.weight"] = block[:, :columns].repeat(rows // 128, 1)
        save_file(tensors, folder / f"model-{layer:03d}.safetensors")
    return layers * per_layer


def main() -> None:
    """Write, profile, report, remove."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--billions", type=float, default=7.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the shards on disk")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hwsim-stream-", dir=arguments.folder))
    try:
        size = write(folder, arguments.billions * 1e9)
        begin = time.perf_counter()
        tensors = sum(1 for _ in profile_checkpoint(folder, SCHEMES))
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{tensors} tensors, {size / 1e9:.2f} G weights, {len(SCHEMES)} options each")
        print(
            f"{seconds:.0f} s, peak resident memory of the whole run {peak:.2f} GiB (mapped pages included)"
        )
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
