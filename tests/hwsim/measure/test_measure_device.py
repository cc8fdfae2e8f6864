"""One small network compiled, timed here and behind an RPC server on this host, and benched by the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwsim.cli.main import run
from hwsim.errors import UserError

pytest.importorskip("tvm")

from hwsim.compile.isa import ISAS, host_isa
from hwsim.measure.bench import Bench, run_bench
from hwsim.measure.calibrate import compile_network, fit_descriptor, measure_machine
from hwsim.measure.descriptor_file import descriptor_yaml
from hwsim.measure.device import ArtifactTimes, Local, Sample
from hwsim.measure.machine import Peak, TilePeak, peak_rate, product_kernel
from hwsim.measure.remote import Remote, parse_address
from hwsim.stages.report import read_report
from hwsim.target.load import load_target

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, 2, 1), nn.LayerNorm(16)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 10)
    def forward(self, x):
        x = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.second(nn.functional.gelu(self.first(self.norm(x))).mean(1))

def make():
    torch.manual_seed(0)
    return Net().eval(), torch.zeros(1, 3, 16, 16)
"""
SERVER = (
    "import time; from tvm.rpc.server import PopenRPCServerState as State; "
    "state = State('127.0.0.1', 9391, 9490, key='test', silent=True); print(state.port, flush=True); "
    "time.sleep(300)"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    (folder / "net.py").write_text(NETWORK)
    graph = compile_network(f"{folder / 'net.py'}:make", folder / "art", Local(), 1)
    return folder, graph


@pytest.fixture(scope="module")
def server():
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"127.0.0.1:{process.stdout.readline().strip()}"
    process.terminate()
    process.wait(10)


class Frozen:
    """A device whose clock is a formula: a kernel's time follows from its bytes and operations."""

    def __init__(self, isa):
        self.isa, self.name = isa, "formula"

    def kernel(self, kernel, arrays):
        if isinstance(kernel, TilePeak):
            seconds = kernel.macs(self.isa) / 800e9
        elif isinstance(kernel, Peak):
            seconds = kernel.macs(self.isa) / (50e9 if kernel.floating else 200e9)
        else:
            work = kernel.rows * kernel.columns * kernel.run
            seconds = (
                work / 160e9 if kernel.rows > 1 else work / (100e9 if arrays[1].size < 1 << 20 else 20e9)
            )
        return Sample(seconds, seconds * 0.9, seconds * 1.2, 5)


def test_artifact_is_timed_layer_by_layer(small):
    folder, graph = small
    times = Local().artifact(folder / "art", rounds=2)
    assert {layer.name for layer in graph.products()} <= set(times.layers)
    parts = sum(sample.low for sample in times.layers.values())
    assert 0 < parts < 3 * times.total.high
    assert times.calls == len(json.loads((folder / "art" / "program.json").read_text())["steps"])


def test_bench_sets_predicted_beside_measured(small, capsys):
    folder, graph = small
    found = run_bench(folder / "art", load_target("x86_avx512_vnni"), Local(), "w8a8", rounds=2)
    assert [layer.name for layer in found.layers if layer.kind in ("linear", "conv2d")] == [
        layer.name for layer in graph.products()
    ]
    assert found.predicted > 0
    assert found.error == pytest.approx(found.predicted / found.measured.median - 1)
    assert run(["bench", str(folder / "art"), "-t", "x86_avx512_vnni", "--scheme", "w8a8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {layer["name"] for layer in document["layers"]} == {layer.name for layer in found.layers}
    assert document["predicted_seconds"] == pytest.approx(found.predicted)
    assert (
        run(["bench", str(folder / "art"), "-t", "x86_avx512_vnni", "--scheme", "w8a8", "--rounds", "1"]) == 0
    )
    assert "median difference of a layer" in capsys.readouterr().out


def test_the_report_of_a_plan_gets_what_was_measured(small, tmp_path, capsys):
    folder, graph = small
    plan, artifact = tmp_path / "plan", tmp_path / "artifact"
    device, model = ["-t", "x86_avx512_vnni"], ["--model", f"{folder / 'net.py'}:make"]
    assert run(["--quiet", "plan", *device, *model, "-o", str(plan)]) == 0
    assert run(["--quiet", "compile", "--plan", str(plan / "plan.json"), *model, "-o", str(artifact)]) == 0
    before = read_report(plan / "report.json")
    assert before.measurement is None
    capsys.readouterr()

    assert run(["bench", str(folder / "art"), *device, "--scheme", "w8a8", "--report", str(plan)]) == 2
    assert f"hwsim compile --plan {plan / 'plan.json'}" in capsys.readouterr().err
    assert read_report(plan / "report.json") == before

    arguments = ["bench", str(artifact), *device, "--rounds", "1", "--report", str(plan), "--json"]
    assert run(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    after = read_report(plan / "report.json")
    assert after.measurement.measured_seconds == printed["measured_seconds"]
    assert {layer.name for layer in graph.products()} <= {layer.name for layer in after.measurement.layers}
    assert "measured latency" in before.unavailable and "measured latency" not in after.unavailable
    for page in ("report.html", "report.md"):
        assert f"on {after.measurement.device}, where x86_avx512_vnni simulates" in (plan / page).read_text()
    assert run(["report", str(plan), "--full"]) == 0
    assert f"Measured on {after.measurement.device}" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "peak"), [("x86-vnni512", 200e9), ("x86-amx", 800e9)])
def test_descriptor_from_a_known_device_has_its_numbers(small, tmp_path, name, peak):
    _, graph = small
    measured = measure_machine(Frozen(ISAS[name]), "known", 1)
    times = ArtifactTimes(
        {layer.name: Sample(5e-6, 4e-6, 6e-6, 5) for layer in graph.products()},
        Sample(2e-5, 2e-5, 3e-5, 5),
        9,
    )
    found = fit_descriptor(measured, {"net": graph}, {"net": times}, "formula")
    path = tmp_path / "known.yaml"
    path.write_text(descriptor_yaml(found.target, "hwsim target calibrate -o known.yaml", found.remarks()))
    read = load_target(str(path))
    assert read.peak_macs_per_cycle(8, 8) * read.clock_hz == pytest.approx(peak, rel=0.01)
    assert read.float_path.macs_per_cycle * read.clock_hz == pytest.approx(50e9, rel=0.01)
    assert read.levels[-1].bytes_per_cycle * read.clock_hz == pytest.approx(20e9, rel=0.01)
    assert read.calibration.points == 3
    spread = read.calibration.measured["engines.0.macs_per_cycle.w8a8"]
    assert spread.low < spread.median < spread.high
    assert "# measured," in path.read_text()
    assert "# fitted," in path.read_text()
    assert read.provenance()["engines.0.efficiency"] == "measured"


def test_peak_kernel_counts_what_it_multiplies():
    isa = host_isa()
    kernel = Peak(turns=3)
    arrays = [np.ones(size, dtype) for _, size, dtype in kernel.arguments(isa)]
    from hwsim.compile.build import call_kernel

    call_kernel(kernel, isa, arrays)
    assert arrays[2].min() == arrays[2].max()  # every lane did the same
    assert kernel.macs(isa) == 3 * arrays[2].size * isa.depth


def test_product_of_one_row_reads_every_weight_once():
    kernel, arrays = product_kernel(host_isa(), 1, 64, 128)
    assert kernel.rows == 1
    assert arrays[1].nbytes >= 64 * 128


def test_rpc_runs_the_same_kernels(small, server):
    folder, _ = small
    remote, here = Remote(server, "test", host_isa()), Local().artifact(folder / "art", rounds=1)
    there = remote.artifact(folder / "art", rounds=1)
    assert there.layers.keys() == here.layers.keys()
    assert there.total.median == pytest.approx(
        sum(sample.median for sample in there.layers.values()), rel=0.5
    )
    rate, _ = peak_rate(remote)
    assert rate > 1e8


def test_bench_over_rpc(small, server, capsys):
    folder, _ = small
    arguments = ["bench", str(folder / "art"), "-t", "x86_avx512_vnni", "--scheme", "w8a8", "--rounds", "1"]
    assert run([*arguments, "--rpc", server, "--key", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == f"{server} over TVM RPC"


@pytest.mark.parametrize("text", ["localhost", "host:", ":9090", "host:port", "host:0", "host:70000"])
def test_bad_address_says_how_it_is_written(text):
    with pytest.raises(UserError, match="HOST:PORT"):
        parse_address(text)


def test_nobody_behind_the_address(capsys):
    assert run(["target", "calibrate", "-o", "never.yaml", "--rpc", "127.0.0.1:1"]) == 2
    assert "no TVM RPC server answers" in capsys.readouterr().err
    assert not Path("never.yaml").exists()


def test_bench_of_no_artifact(tmp_path, capsys):
    assert run(["bench", str(tmp_path), "-t", "edge_gpu"]) == 2
    assert "hwsim compile" in capsys.readouterr().err


def test_damaged_artifact_is_refused(small, tmp_path, capsys):
    folder, _ = small
    shutil.copytree(folder / "art", tmp_path / "art")
    with (tmp_path / "art" / "module.so").open("ab") as stream:
        stream.write(b"x")
    assert run(["bench", str(tmp_path / "art"), "-t", "edge_gpu", "--scheme", "w8a8"]) == 2
    assert "does not match the manifest" in capsys.readouterr().err


@pytest.mark.parametrize(("high", "says"), [(1.2, ""), (30.0, "30.0 times as long")])
def test_a_busy_machine_is_remarked(high, says):
    found = Bench("net", "this machine", "x86", (), 1.0, Sample(1.0, 1.0, high, 5))
    assert says in found.remark and bool(found.remark) == bool(says)
