"""``bench``: an artifact measured beside the prediction, and what was measured added to the report of its plan."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.errors import UserError
from hwsim.stages.report import read_report, rendered_files, report_file, write_report

if TYPE_CHECKING:
    from hwsim.measure.bench import Bench
    from hwsim.report.document import Report
    from hwsim.target.schema import Target


def bench_artifact(
    artifact: Path,
    target: "Target",
    *,
    scheme: str | None = None,
    rounds: int = 5,
    rpc: str | None = None,
    key: str = "",
    report: str | None = None,
) -> "Bench":
    """Measure an artifact here or behind a TVM RPC server; ``report`` is the directory of its plan."""
    from hwsim.measure.bench import read_manifest_document, run_bench
    from hwsim.measure.remote import open_device

    # a slip in the name of the report shows before anything is measured
    known = None if report is None else measured_report(report, artifact)
    isa = str(read_manifest_document(artifact)["machine"]["name"])
    found = run_bench(artifact, target, open_device(rpc, key, isa), scheme, rounds)
    if known is not None:
        add_measurement(*known, found)
    return found


def measured_report(plan: str, artifact: Path) -> "tuple[Path, Report]":
    """The report of the plan that an artifact was compiled from."""
    path = report_file(plan)
    report = read_report(path)
    held = artifact / "plan.json"
    if not held.is_file() or hashlib.sha256(held.read_bytes()).hexdigest() != report.provenance.plan_sha256:
        raise UserError(
            f"--report {plan}: {artifact} was not compiled from the plan of this report; compile it with "
            f"hwsim compile --plan {path.with_name('plan.json')}"
        )
    return path, report


def add_measurement(path: Path, report: "Report", found: "Bench") -> None:
    """Put what was measured of a plan's artifact into the plan's ``report.json``, and render it again."""
    from hwsim.report.document import MeasuredLayer, Measurement

    layers = [
        MeasuredLayer(
            name=layer.name, kind=layer.kind, simulated_seconds=layer.predicted,
            measured_seconds=layer.measured.median,
        )
        for layer in found.layers
    ]  # fmt: skip
    measurement = Measurement(
        device=found.device,
        descriptor=found.target,
        simulated_seconds=found.predicted,
        measured_seconds=found.measured.median,
        low=found.measured.low,
        high=found.measured.high,
        layers=layers,
    )
    known = {name: why for name, why in report.unavailable.items() if name != "measured latency"}
    report = report.model_copy(update={"measurement": measurement, "unavailable": known})
    for file in (path, *rendered_files(path)):
        write_report(file, report)
