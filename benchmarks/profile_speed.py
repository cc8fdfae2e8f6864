"""Seconds to profile every option of every layer: ResNet-50, ViT-B and OPT-350M shapes with random weights.

    python benchmarks/profile_speed.py [--repeat 3]

The first call compiles (or loads from cache) and is not counted. Prints wall and processor seconds, the median of
the repeats; on a busy machine only the processor seconds mean anything.
"""

import argparse
import os
import statistics
import time

import numpy as np

from quant.profile import default_schemes, profile_layer

VIT_B = [(768, 768), *[(2304, 768), (768, 768), (3072, 768), (768, 3072)] * 12, (1000, 768)]
OPT_350M = [*[(1024, 1024)] * (4 * 24), *[(4096, 1024), (1024, 4096)] * 24, (1024, 512), (512, 1024)]


def resnet50() -> list[tuple[int, ...]]:
    """Weight matrices of ResNet-50."""
    shapes: list[tuple[int, ...]] = [(64, 147)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, channels), (width, width * 9), (width * 4, width)]
            if block == 0:
                shapes.append((width * 4, channels))
            channels = width * 4
    return [*shapes, (1000, 2048)]


def run(shapes, fisher: bool) -> tuple[float, float]:
    """Wall and processor seconds for all layers."""
    generator = np.random.default_rng(0)
    schemes = default_schemes()
    wall = processor = 0.0
    for shape in shapes:
        weight = generator.standard_normal(shape, np.float32)
        squared = generator.random(shape, np.float32) if fisher else None
        moments = generator.random(shape[1], np.float32)
        begin, used = time.perf_counter(), time.process_time()
        profile_layer(weight, schemes, macs=1, column_moments=moments, squared_gradient=squared)
        wall, processor = wall + time.perf_counter() - begin, processor + time.process_time() - used
    return wall, processor


def main() -> None:
    """Print one line per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    run([(8, 8)], fisher=True)
    print(f"{len(default_schemes())} options a layer, load average {os.getloadavg()[0]:.1f}")
    for name, shapes in (("ResNet-50", resnet50()), ("ViT-B", VIT_B), ("OPT-350M", OPT_350M)):
        for fisher in (False, True):
            times = [run(shapes, fisher) for _ in range(repeat)]
            wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
            size = sum(int(np.prod(shape)) for shape in shapes) / 1e6
            print(
                f"{name:10} {size:6.1f} M weights {'with' if fisher else 'without'} gradients: "
                f"{wall:.2f} s wall, {processor:.2f} s processor"
            )


if __name__ == "__main__":
    main()
