"""Kernels and artifacts timed on another machine, behind a TVM RPC server (``python -m tvm.exec.rpc_server``).

The library is uploaded, constants and work buffers are made there, and each kernel is timed by the server's own
clock, so that the network between is not in the figure. Kernels are timed one by one: caches are warmer than in a
whole inference, and a whole inference is the sum of its kernels.
"""
# pyright: basic
# TVM ships no type stubs.

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsim.errors import UserError
from hwsim.measure.device import (
    CALLS,
    ROUNDS,
    ArtifactTimes,
    Device,
    Local,
    Sample,
    by_layer,
    example_inputs,
)

if TYPE_CHECKING:
    from hwsim.compile.build import Kernel
    from hwsim.compile.isa import Isa

MIN_REPEAT_MS = 2
SLACK = 64  # bytes behind each buffer that a kernel may read


def open_device(address: str | None, key: str, isa: str) -> Device:
    """This process, or the server at ``address``; ``isa`` names the machine, ``host`` this one."""
    from hwsim.compile.isa import named_isa

    machine = named_isa(isa)
    return Local(machine) if address is None else Remote(address, key, machine)


def parse_address(text: str) -> tuple[str, int]:
    """``host:port``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"--rpc {text!r}: write HOST:PORT, as in 192.168.0.7:9090")
    return host, int(port)


class Remote:
    """A session on an RPC server."""

    def __init__(self, address: str, key: str, isa: "Isa") -> None:
        from tvm import rpc

        host, port = parse_address(address)
        try:
            self._session = rpc.connect(host, port, key)
        except Exception as error:
            raise UserError(
                f"--rpc {address}: no TVM RPC server answers there under the key {key!r} "
                f"({str(error).strip().splitlines()[-1]}); start one with "
                f"python -m tvm.exec.rpc_server --host {host} --port {port} --key {key or 'KEY'}"
            ) from error
        self._device = self._session.cpu(0)
        self.isa, self.name = isa, f"{address} over TVM RPC"

    def kernel(self, kernel: "Kernel", arrays: list[np.ndarray]) -> Sample:
        """Seconds of one call."""
        from hwsim.compile.build import build_objects, kernel_name, link

        with tempfile.TemporaryDirectory() as scratch:
            library = Path(scratch) / f"{kernel_name(kernel, self.isa)}.so"
            link(build_objects([kernel], self.isa), self.isa, library)
            module = self._load(library)
        tensors = [self._tensor(array) for array in arrays]
        return self._timed(module, kernel_name(kernel, self.isa), tensors, ROUNDS)

    def artifact(self, directory: Path, rounds: int = ROUNDS) -> ArtifactTimes:
        """Every step by the server's clock; the whole inference is their sum."""
        from safetensors import safe_open

        from hwsim.runtime import Port
        from hwsim.runtime.verify import read_manifest

        manifest = read_manifest(directory)
        if "module.so" not in manifest["files"]:
            raise UserError(f"{directory}: holds no shared library; compile it for the device with --isa")
        program = json.loads((directory / "program.json").read_text(encoding="utf-8"))
        module = self._load(directory / "module.so")
        ports = [Port(p["name"], tuple(p["shape"]), p["dtype"]) for p in program["inputs"]]
        inputs = example_inputs(ports)
        given = {p["buffer"]: inputs[p["name"]] for p in program["inputs"]}
        tensors: list[Any] = []
        with safe_open(directory / "params.safetensors", framework="numpy") as params:
            for index, entry in enumerate(program["buffers"]):
                array = np.zeros(entry["elements"], entry["dtype"])
                if entry["kind"] == "constant":
                    array[:] = params.get_tensor(entry["name"])[: array.size]
                elif index in given:
                    array[:] = given[index].reshape(-1)
                tensors.append(self._tensor(array))
        layers = [step[2] for step in program["steps"]]
        samples = [
            self._timed(module, step[0], [tensors[i] for i in step[1]], rounds) for step in program["steps"]
        ]
        steps = [[sample.low for sample in samples], [sample.median for sample in samples]]
        steps.append([sample.high for sample in samples])
        whole = Sample.of([sum(each) for each in steps])
        return ArtifactTimes(by_layer(layers, steps), whole, len(layers))

    def _load(self, library: Path) -> Any:
        self._session.upload(str(library), library.name)
        return self._session.load_module(library.name)

    def _tensor(self, array: np.ndarray) -> Any:
        """The array on the device, zeros behind it."""
        from tvm import runtime

        flat = array.reshape(-1)
        whole = runtime.empty((flat.size + SLACK // flat.itemsize,), str(flat.dtype), self._device)
        whole.copyfrom(np.pad(flat, (0, SLACK // flat.itemsize)))
        self._keep.append(whole)
        return whole._create_view((flat.size,))

    @property
    def _keep(self) -> list[Any]:
        """Buffers stay while views of them are used."""
        return self.__dict__.setdefault("kept", [])

    def _timed(self, module: Any, name: str, tensors: list[Any], rounds: int) -> Sample:
        timer = module.time_evaluator(
            name, self._device, number=1, repeat=rounds * CALLS, min_repeat_ms=MIN_REPEAT_MS
        )
        seconds = list(timer(*tensors).results)
        return Sample.of([min(seconds[i * CALLS : (i + 1) * CALLS]) for i in range(rounds)])
