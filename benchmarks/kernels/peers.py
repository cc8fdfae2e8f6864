"""Peers of the integer product: the same u8 x s8 product in torch, onnxruntime and OpenVINO, weights constant.

Absent peers are skipped. One thread each unless asked otherwise.
"""

import contextlib
import tempfile
from pathlib import Path

import numpy as np


def torch_peers(a, w, threads=1):
    """Torch with oneDNN: _int_mm (s8 x s8) and the prepacked quantized linear."""
    import torch

    torch.set_num_threads(threads)
    found = {}
    left, right = (
        torch.from_numpy((a.astype(np.int16) - 128).astype(np.int8)),
        torch.from_numpy(w).t().contiguous(),
    )
    if a.shape[0] > 16:
        found["torch _int_mm"] = lambda: torch._int_mm(left, right)
    with contextlib.suppress(Exception):
        torch.backends.quantized.engine = "onednn"
        weight = torch._make_per_tensor_quantized_tensor(torch.from_numpy(w), 0.01, 0)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        x = torch._make_per_tensor_quantized_tensor(torch.from_numpy(a), 0.02, 119)
        found["torch qlinear"] = lambda: torch.ops.quantized.linear(x, packed, 0.05, 100)
    f, g = torch.from_numpy(a.astype(np.float32)), torch.from_numpy(w.astype(np.float32))
    found["torch fp32"] = lambda: torch.nn.functional.linear(f, g)
    return found


def onnx_model(a, w, kind):
    """MatMulInteger, or DequantizeLinear -> MatMul that runtimes fuse, as bytes."""
    from onnx import TensorProto, helper, numpy_helper

    (m, k), n = a.shape, w.shape[0]
    weights = [numpy_helper.from_array(np.ascontiguousarray(w.T), "w")]
    if kind == "integer":
        zero = numpy_helper.from_array(np.array(119, np.uint8), "za")
        nodes = [helper.make_node("MatMulInteger", ["a", "w", "za"], ["y"])]
        weights.append(zero)
        inputs = [helper.make_tensor_value_info("a", TensorProto.UINT8, (m, k))]
        outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, (m, n))]
    else:
        weights += [numpy_helper.from_array(np.array(v, t), name) for name, v, t in (
            ("sa", 0.02, np.float32), ("za", 119, np.uint8), ("sw", 0.01, np.float32), ("zw", 0, np.int8))]  # fmt: skip
        nodes = [
            helper.make_node("QuantizeLinear", ["a", "sa", "za"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "sa", "za"], ["fa"]),
            helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["fw"]),
            helper.make_node("MatMul", ["fa", "fw"], ["y"]),
        ]
        inputs = [helper.make_tensor_value_info("a", TensorProto.FLOAT, (m, k))]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (m, n))]
    graph = helper.make_graph(nodes, "product", inputs, outputs, weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()


def onnxruntime_peers(a, w, threads=1):
    """MLAS through onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(onnx_model(a, w, "integer"), options, ["CPUExecutionProvider"])
    return {"onnxruntime MatMulInteger": lambda: session.run(None, {"a": a})}


def openvino_peers(a, w, threads=1):
    """OpenVINO on the quantize-dequantize form, which its low-precision passes turn into an integer product."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        path.write_bytes(onnx_model(a, w, "qdq"))
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    x = openvino.Tensor(a.astype(np.float32) * 0.02)
    request.set_input_tensor(x)
    return {"openvino": request.infer}


def all_peers(a, w, threads=1):
    """Every peer that is installed."""
    found = {}
    for make in (torch_peers, onnxruntime_peers, openvino_peers):
        try:
            found |= make(a, w, threads)
        except ImportError as error:
            print(f"skipped: {error}")
    return found
