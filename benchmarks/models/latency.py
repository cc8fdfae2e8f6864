"""Whole-model latency, batch 1: compiled integer artifact against onnxruntime and OpenVINO, int8 and fp32.

    python benchmarks/models/latency.py vit_b deit_t resnet50 [--threads 1] [--scheme w8a8] [--output FILE.md]

Weights are random where no pretrained ones are at hand: latency does not depend on them. Peers get the same
network as ONNX, quantized by onnxruntime's static quantizer (QDQ, u8 activations, s8 weights per channel) on
the same input. Rounds are interleaved; medians of CPU time with one thread, of wall time with more.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))

from timing import interleaved, table

from hwsim.compile.artifact import write_artifact
from hwsim.compile.isa import host_isa
from hwsim.compile.lower import lower
from hwsim.model.load import load_model
from hwsim.runtime import load
from hwsim.stages.quantize import uniform_assignment
from quant.observe import observe_ranges
from quant.qmodel import quantize
from quant.scheme import Scheme


def artifact(model, inputs, scheme, threads, folder):
    """The compiled model as a callable, and how it was loaded."""
    assignment = uniform_assignment(model.graph, Scheme.parse(scheme))
    ranges = observe_ranges(model.module, assignment, [inputs])
    module = quantize(model.module, assignment, ranges=ranges).integer()
    write_artifact(lower(module, host_isa(), units=threads), host_isa(), folder, threads=threads)
    start = time.perf_counter()
    runner = load(folder)
    seconds = time.perf_counter() - start
    runner.set_inputs(*[x.numpy() for x in inputs])
    sizes = f"weights {runner.weight_bytes / 1e6:.1f} MB, arena {runner.arena_bytes / 1e6:.1f} MB"
    return runner.run, f"load {seconds:.2f} s, {sizes}"


class _Plain(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        result = self.module(*inputs)
        return result[0] if isinstance(result, tuple | list) else result


def export(model, inputs, folder):
    """fp32 and int8 ONNX files."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, ready, quantized = (folder / f"{name}.onnx" for name in ("fp32", "ready", "int8"))
    names = [f"x{i}" for i in range(len(inputs))]
    torch.onnx.export(
        _Plain(model.module), inputs, str(plain), input_names=names, opset_version=17, dynamo=False
    )
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{n: x.numpy() for n, x in zip(names, inputs, strict=True)}]

        def get_next(self):
            return self.left.pop() if self.left else None

    quantize_static(str(ready), str(quantized), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    return plain, quantized, {n: x.numpy() for n, x in zip(names, inputs, strict=True)}


def onnxruntime_call(path, feed, threads):
    """One inference in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def openvino_call(path, feed, threads, precision=None):
    """One inference in OpenVINO, which by itself computes in bfloat16 where the processor can."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()
    for index, value in enumerate(feed.values()):
        request.set_input_tensor(index, openvino.Tensor(np.ascontiguousarray(value)))
    return request.infer


def measure(name, options):
    """One row of the table."""
    torch.manual_seed(0)
    model = load_model(name)
    inputs = tuple(torch.randn_like(x) if x.is_floating_point() else x for x in model.example_inputs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        calls = {}
        calls["hwsim"], facts = artifact(model, inputs, options.scheme, options.threads, folder / "art")
        print(f"{name}: {facts}", file=sys.stderr)
        try:
            plain, quantized, feed = export(model, inputs, folder)
            for kind, path in (("int8", quantized), ("fp32", plain)):
                calls[f"onnxruntime {kind}"] = onnxruntime_call(path, feed, options.threads)
            calls["openvino int8"] = openvino_call(quantized, feed, options.threads)
            calls["openvino fp32"] = openvino_call(plain, feed, options.threads, "f32")
            calls["openvino bf16"] = openvino_call(plain, feed, options.threads, "bf16")
        except Exception as error:
            print(f"{name}: peer left out: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        clock = time.process_time if options.threads == 1 else time.perf_counter
        pause = 0.0 if options.threads == 1 else 0.2
        once = dict.fromkeys(calls, 1)
        return interleaved(calls, options.rounds, clock, warmup=2, inner=once, pause=pause), facts


def main():
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--scheme", default="w8a8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    peers = [f"{peer} {kind}" for kind in ("int8", "fp32") for peer in ("onnxruntime", "openvino")]
    peers.append("openvino bf16")
    rows = []
    for name in options.models:
        times, facts = measure(name, options)
        ours = times["hwsim"]
        cells = [f"{1e3 * times[p]:.2f} ({times[p] / ours:.2f}x)" if p in times else "-" for p in peers]
        rows.append([name, f"{1e3 * ours:.2f}", *cells, facts])
        print(*rows[-1], sep="  ", flush=True)
    text = "# Whole-model latency, batch 1, milliseconds\n\nCommand: `python benchmarks/models/latency.py "
    text += f"{' '.join(options.models)} --scheme {options.scheme} --threads {options.threads} "
    text += f"--rounds {options.rounds}`. Kernels: {host_isa().name}. "
    text += "In brackets: how many times hwsim is faster.\n\n"
    text += table(["model", f"hwsim {options.scheme}", *peers, "artifact"], rows)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
