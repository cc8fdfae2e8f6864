"""Convolutions inside whole int8 models, layer by layer, beside onnxruntime and OpenVINO.

    python benchmarks/models/convolutions.py [resnet50 mobilenet_v2] [--rounds 15]
                                             [--output reports/kernels/convolutions.md]

A convolution alone would be charged for layouts that a network never converts, so each runtime executes the whole
network (batch 1, one thread) and tells its own time of every convolution: hwsim by `Model.profile`, the peers by
their profilers. Rounds are interleaved, a layer's time is the median over them. Ours counts all steps of the
layer: the border around its input, the residual sum, the next layer's codes; only pools stand apart. Weights are
random where no pretrained ones are at hand: times do not depend on them.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from latency import artifact, export

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

from timing import table

from hwsim.model.load import load_model
from hwsim.runtime import load


class Onnxruntime:
    """The quantized network in onnxruntime, with its profile of every node."""

    def __init__(self, path, feed, folder):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "onnxruntime")
        self.session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self.feed = feed

    def run(self):
        """One inference."""
        self.session.run(None, self.feed)

    def times(self, count):
        """Per inference the microseconds of its convolutions and of its sums, in the order of the network."""
        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        found = {
            kind: [e["dur"] for e in events if e.get("args", {}).get("op_name") == kind]
            for kind in ("QLinearConv", "QLinearAdd")
        }
        runs = len(found["QLinearConv"]) // count
        return [
            tuple(
                times[run * len(times) // runs : (run + 1) * len(times) // runs] for times in found.values()
            )
            for run in range(runs)
        ]


class Openvino:
    """The quantized network in OpenVINO, with its profile of every node."""

    def __init__(self, path, feed):
        import openvino

        core = openvino.Core()
        settings = {"PERF_COUNT": "YES", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        self.request, self.runs = compiled.create_infer_request(), []
        for index, value in enumerate(feed.values()):
            self.request.set_input_tensor(index, openvino.Tensor(np.ascontiguousarray(value)))

    def run(self):
        """One inference."""
        self.request.infer()
        nodes = [n for n in self.request.profiling_info if n.node_type in ("Convolution", "GroupConvolution")]
        self.runs.append(([node.real_time.total_seconds() * 1e6 for node in nodes], []))

    def times(self, count):
        """As above."""
        assert all(len(run) == count for run, _ in self.runs), "OpenVINO fused or split a convolution"
        return self.runs


def rows_of(module, layers):
    """Numbers of the convolutions that make one row each, and for every sum, in order, the number of its row."""
    number = {layer.name: index for index, layer in enumerate(layers)}
    row, sums = list(range(len(layers))), []
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.add.Tensor and len(node.all_input_nodes) == 2:
            added = [number[n.meta["layer"]] for n in node.all_input_nodes if _is_convolution(n)]
            for index in added:
                row[index] = min(added)
            sums.append(min(added))
    return row, sums


def _is_convolution(node):
    return node.target is torch.ops.aten.conv2d.default


def medians(runs, row, sums, warmup=2):
    """Microseconds of every row by its first convolution, sums included where a runtime tells them apart."""
    totals = []
    for convolutions, additions in runs[warmup:]:
        total = dict.fromkeys(row, 0.0)
        assert len(additions) in (0, len(sums)), "a runtime split a residual sum"
        for place, time in [*zip(row, convolutions, strict=True), *zip(sums, additions, strict=False)]:
            total[place] += time
        totals.append(total.values())
    return dict(zip(total, map(statistics.median, zip(*totals, strict=True)), strict=True))


def measure(name, rounds):
    """Layers of each row of one network, and the rows' microseconds: ours and those of both peers."""
    torch.manual_seed(0)
    model = load_model(name)
    inputs = tuple(torch.randn_like(x) for x in model.example_inputs)
    layers = [layer for layer in model.graph.products() if layer.kind == "conv2d"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        artifact(model, inputs, "w8a8", 1, folder / "art")
        ours = load(folder / "art")
        ours.set_inputs(*[x.numpy() for x in inputs])
        _, quantized, feed = export(model, inputs, folder)
        peers = {"onnxruntime": Onnxruntime(quantized, feed, folder), "OpenVINO": Openvino(quantized, feed)}
        own = []
        for _ in range(rounds + 2):
            steps = ours.profile(1)
            times = dict.fromkeys((layer.name for layer in layers), 0.0)
            for layer, kernel, seconds in steps:
                if layer in times and not kernel.startswith("pool"):
                    times[layer] += seconds * 1e6
            own.append((list(times.values()), []))
            for peer in peers.values():
                peer.run()
        row, sums = rows_of(model.module, layers)
        theirs = {peer: medians(runs.times(len(layers)), row, sums) for peer, runs in peers.items()}
    joined = {place: [layer for layer, at in zip(layers, row, strict=True) if at == place] for place in row}
    return joined, medians(own, row, sums), theirs


def shape_of(layer):
    """Whether every channel has its own filter; channels, window and stride."""
    conv, groups = layer.conv, layer.groups
    kind = "depthwise" if groups > 1 and groups == conv.in_channels else "dense"
    window = "×".join(map(str, conv.kernel))
    return kind, f"{conv.in_channels}→{conv.out_channels}, {window}, /{conv.stride[0]}"


def main():
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["resnet50", "mobilenet_v2"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    models = " ".join(options.models)
    lines = [
        "# Convolutions inside int8 networks, beside their peers\n",
        f"Command: `python benchmarks/models/convolutions.py {models} --rounds {options.rounds}`; batch 1, one "
        "thread, microseconds of every layer as each runtime's own profile tells them, medians of interleaved "
        "rounds. Convolutions that meet in a residual sum make one row, the sum included.\n",
    ]
    for name in options.models:
        layers, own, theirs = measure(name, options.rounds)
        rows, ratios = [], {}
        for place, together in layers.items():
            kinds, shapes = zip(*map(shape_of, together), strict=True)
            best = min(times[place] for times in theirs.values())
            ratios.setdefault(kinds[0], []).append(best / own[place])
            cells = [f"{times[place]:.0f}" for times in theirs.values()]
            names = " + ".join(layer.name for layer in together)
            rows.append(
                [names, kinds[0], " + ".join(shapes), f"{own[place]:.0f}", *cells, f"{best / own[place]:.2f}"]
            )
        lines += [
            f"## {name}\n",
            table(["layer", "kind", "shape", "hwsim", *theirs, "best peer / hwsim"], rows),
        ]
        for kind, values in ratios.items():
            mean = math.exp(sum(map(math.log, values)) / len(values))
            lines.append(
                f"{len(values)} rows of {kind}: geometric mean {mean:.2f}, smallest {min(values):.2f}.\n"
            )
    text = "\n".join(lines)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
