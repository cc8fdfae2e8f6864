"""``hwsim doctor``: what is installed, what the machine has, what is missing and how to mend it."""

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Annotated, Literal

import typer

from hwsim.cli import console

Status = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's list."""

    what: str
    status: Status
    detail: str
    mend: str = ""


_NEEDED = (
    ("torch", "pip install torch"),
    ("timm", "pip install timm"),
    ("transformers", "pip install transformers"),
    ("ortools", "pip install 'ortools>=9.15,<9.16'"),
    ("numba", "pip install numba"),
    ("pydantic", "pip install pydantic"),
)
_TVM = "in a clone of hwsim: pip install -c constraints.txt -e '.[tvm]'"
_OPTIONAL = (
    ("apache-tvm", f"{_TVM} (needed by hwsim compile)"),
    ("apache-tvm-ffi", f"{_TVM} (needed by hwsim compile and hwsim run)"),
)
_TOOLS = (
    ("gcc", "a C compiler, to link compiled modules: apt-get install gcc"),
    ("aarch64-linux-gnu-gcc", "for aarch64 modules: apt-get install gcc-aarch64-linux-gnu"),
    ("riscv64-linux-gnu-gcc", "for riscv64 modules: apt-get install gcc-riscv64-linux-gnu"),
    ("arm-none-eabi-gcc", "for Cortex-M objects: apt-get install gcc-arm-none-eabi"),
    ("qemu-aarch64", "to run foreign modules here: apt-get install qemu-user"),
    ("nvcc", "for CUDA modules: install the CUDA toolkit, or pip install nvidia-cuda-nvrtc-cu12"),
)
_ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def _package(name: str, mend: str) -> Finding:
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", mend)


def _tvm_targets() -> Finding:
    try:
        import tvm  # pyright: ignore[reportMissingImports]

        kinds = [kind for kind in ("llvm", "c", "cuda", "opencl") if tvm.get_global_func(
            f"target.build.{kind}", allow_missing=True) is not None]  # fmt: skip
        return Finding("TVM code generators", "ok", ", ".join(kinds))
    except ImportError:
        return Finding("TVM code generators", "missing", "TVM is not installed", _TVM)
    except Exception as error:  # a broken installation can fail in any way; the doctor reports it
        return Finding("TVM code generators", "broken", str(error).splitlines()[0], _TVM)


def _device() -> Finding:
    """The NVIDIA device that hwsim run would use; tensor cores multiply integers from compute capability 7.5 on."""
    from hwsim.errors import UserError
    from hwsim.runtime.cuda import OLDEST, Device

    try:
        device = Device()
    except UserError as error:
        return Finding(
            "NVIDIA device", "missing", str(error).partition(": ")[2], "to run CUDA modules: a driver"
        )
    detail = f"{device.name}, compute capability {device.capability / 10}"
    if device.capability < OLDEST:
        return Finding("NVIDIA device", "broken", detail, f"CUDA modules need {OLDEST / 10} or newer")
    return Finding("NVIDIA device", "ok", detail)


def _isa() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as stream:
            words = set(stream.read().split())
    except OSError:
        return "unknown"
    return ", ".join(name for name in _ISA if name in words) or "none of the known ones"


def examine() -> list[Finding]:
    """All findings, needed packages first."""
    findings = [
        Finding("hwsim", "ok", metadata.version("hwsim")),
        Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("cores", "ok", f"{os.cpu_count()}"),
        Finding("integer instructions", "ok", _isa()),
    ]
    findings += [_package(name, mend) for name, mend in _NEEDED + _OPTIONAL]
    findings.append(_tvm_targets())
    for name, mend in _TOOLS:
        path = shutil.which(name)
        findings.append(Finding(name, "ok", path) if path else Finding(name, "missing", "not found", mend))
    findings.append(_device())
    return findings


def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Tell what is installed, what is missing and how to mend it.

    Exit code 1 when something that planning needs is missing.

    Example: hwsim doctor
    """
    findings = examine()
    if json:
        console.print_json([asdict(finding) for finding in findings])
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table("what", "status", "detail", "how to mend", box=None, pad_edge=False)
        for finding in findings:
            colour = "green" if finding.status == "ok" else "yellow"
            detail, mend = escape(finding.detail), escape(finding.mend)
            table.add_row(finding.what, f"[{colour}]{finding.status}", detail, mend)
        console.out(markup=True).print(table)
    needed = {name for name, _ in _NEEDED}
    if any(finding.what in needed and finding.status != "ok" for finding in findings):
        raise typer.Exit(1)
