"""Fidelity on this host: the simulator on a calibrated descriptor against the kernels that hwsim compiles.

The descriptor comes from synthetic kernels and networks (`hwsim target calibrate`), never from these models. Weights
are seeded random ones, activations are calibrated on synthetic inputs: neither changes a latency. The mixed plans are
the solver's for this descriptor, with room for three quarters of the 8-bit weights.

    python benchmarks/simulator/host.py [--folder FOLDER] [--subjects deit_t …] [--steps compile measure report]

The folder keeps the descriptor, the artifacts and what was measured, so a run goes on where the last one ended and its
steps can be run apart: only `calibrate` and `measure` need a quiet machine. What is measured already is not measured
again; remove `SUBJECT.times.json` for that. Predictions are made anew for each report.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.simulator.tables import markdown, write  # noqa: E402
from hwsim import files  # noqa: E402
from hwsim.errors import HwsimError  # noqa: E402
from hwsim.measure.bench import Bench, compared  # noqa: E402
from hwsim.measure.calibrate import calibrate_machine, compile_network  # noqa: E402
from hwsim.measure.descriptor_file import descriptor_yaml  # noqa: E402
from hwsim.measure.device import ArtifactTimes, Local, Sample  # noqa: E402
from hwsim.target.load import load_target  # noqa: E402
from hwsim.target.schema import Target  # noqa: E402

MODELS = (
    "vit_b", "vit_t", "deit_t", "swin_t", "resnet18", "resnet50", "mobilenet_v2", "regnetx_600mf", "bert_base",
    "opt_125m",
)  # fmt: skip
MIXED = {"deit_t mixed": "deit_t", "resnet18 mixed": "resnet18"}
SUBJECTS = (*MODELS, *MIXED)
STEPS = ("calibrate", "compile", "measure", "report")
WEIGHTS_SHARE = 0.75
ROUNDS = 5


def descriptor(folder: Path, calibrating: bool) -> Target:
    """The folder's descriptor, made where there is none."""
    path = folder / "this_host.yaml"
    if not path.is_file():
        if not calibrating:
            raise SystemExit(f"{path}: not there; run the step calibrate first")
        found = calibrate_machine(Local(), "this_host", progress=print)
        files.write_text(path, descriptor_yaml(found.target, "benchmarks/simulator/host.py", found.remarks()))
    return load_target(str(path))


def compiled(subject: str, folder: Path, target: Path) -> None:
    """An artifact of the subject, unless there is one."""
    directory = artifact(subject, folder)
    if (directory / "manifest.json").is_file():
        return
    if subject not in MIXED:
        compile_network(subject, directory, Local(), 1)
        return
    import hwsim
    from hwsim.simulate.graph_source import layer_graph
    from hwsim.simulate.stored_weights import weight_elements
    from hwsim.stages.compile import CompileRequest, run_compile

    model = MIXED[subject]
    room = WEIGHTS_SHARE * sum(map(weight_elements, layer_graph(model).products()))
    plan = folder / f"{artifact(subject, folder).name}.plan"
    hwsim.plan(
        target=str(target), model=model, bits="w4a8,w8a8", max_weight_memory=room, objective="error,latency",
        output_dir=plan,
    )  # fmt: skip
    run_compile(CompileRequest(directory, threads=1, plan=plan / "plan.json", model=model, samples=2))


def artifact(subject: str, folder: Path) -> Path:
    """Where the subject's compiled form lies."""
    return folder / subject.replace(" ", "_")


def measured(subject: str, folder: Path) -> ArtifactTimes:
    """Times of the subject, from the folder where it was measured before."""
    path = folder / f"{artifact(subject, folder).name}.times.json"
    if not path.is_file():
        times = Local().artifact(artifact(subject, folder), ROUNDS)
        files.write_text(path, json.dumps(asdict(times)))
    found = json.loads(path.read_text(encoding="utf-8"))
    layers = {name: Sample(**sample) for name, sample in found["layers"].items()}
    return ArtifactTimes(layers, Sample(**found["total"]), found["calls"])


def kinds_table(benches: list[Bench]) -> str:
    """Median and share within 25 % of the layers' errors, by operator."""
    errors: dict[str, list[float]] = {}
    for bench in benches:
        for layer in bench.layers:
            errors.setdefault(layer.kind, []).append(layer.error)
    rows: list[list[object]] = [
        [kind, len(found), f"{100 * statistics.median(found):+.1f} %", *_sizes(found)]
        for kind, found in sorted(errors.items())
    ]
    return markdown(["operator", "layers", "median", "median size", "within 25 %"], rows)


def _sizes(errors: list[float]) -> tuple[str, str]:
    sizes = [abs(error) for error in errors]
    inside = sum(size <= 0.25 for size in sizes) / len(sizes)
    return f"{100 * statistics.median(sizes):.1f} %", f"{100 * inside:.0f} %"


def subject_row(bench: Bench, subject: str) -> list[object]:
    """One line of the table."""
    times = bench.measured
    return [
        subject, len(bench.layers), f"{1e3 * bench.predicted:.2f}", f"{1e3 * times.median:.2f}",
        f"{1e3 * times.low:.2f}–{1e3 * times.high:.2f}", f"{100 * bench.error:+.1f} %",
        f"{100 * bench.median_layer_error:.1f} %",
    ]  # fmt: skip


def main() -> None:
    """Write reports/simulator/host.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("out/host"), help="kept between runs")
    parser.add_argument("--subjects", nargs="*", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=STEPS)
    options = parser.parse_args()
    logging.getLogger("hwsim").setLevel(logging.ERROR)
    target = descriptor(options.folder, "calibrate" in options.steps)
    failed: dict[str, str] = {}
    for subject in options.subjects:
        try:
            if "compile" in options.steps:
                compiled(subject, options.folder, options.folder / "this_host.yaml")
            if "measure" in options.steps:
                times = measured(subject, options.folder)
                bench = compared(
                    artifact(subject, options.folder), target, "this host", times, _scheme(subject)
                )
                print(*subject_row(bench, subject), sep="  ", flush=True)
        except HwsimError as error:
            failed[subject] = str(error)
            print(f"{subject}: {error}", flush=True)
    if "report" in options.steps:
        report(target, options.folder, failed)


def _scheme(subject: str) -> str | None:
    return None if subject in MIXED else "w8a8"


def report(target: Target, folder: Path, failed: dict[str, str]) -> None:
    """The tables of all that was measured, and what they say."""
    benches = {
        subject: compared(
            artifact(subject, folder), target, "this host", measured(subject, folder), _scheme(subject)
        )
        for subject in SUBJECTS
        if (folder / f"{artifact(subject, folder).name}.times.json").is_file()
    }
    if not benches:
        raise SystemExit("nothing was measured")
    totals = [abs(bench.error) for bench in benches.values()]
    layers = [bench.median_layer_error for bench in benches.values()]
    record = target.calibration
    missing = [subject for subject in SUBJECTS if subject not in benches and subject not in failed]
    headings = ["model", "layers", "predicted ms", "measured ms", "rounds", "difference", "median of a layer"]
    write(
        "host.md",
        "python benchmarks/simulator/host.py",
        "# This host",
        (__doc__ or "").split("    python")[0].strip(),
        f"Machine: {platform.machine()} ({record.machine if record else 'unknown'}), {os.cpu_count()} cores, one used; "
        f"w8a8 where not mixed, batch 1; a measured figure is the median of {ROUNDS} rounds, each the fastest of four "
        "inferences.",
        f"Wanted: 5 % for a model, 8 % for the median layer. Within 5 %: {sum(t <= 0.05 for t in totals)} of "
        f"{len(totals)} models, worst {100 * max(totals):.1f} %; median layer within 8 %: "
        f"{sum(e <= 0.08 for e in layers)} of {len(layers)} models.",
        markdown(headings, [subject_row(bench, subject) for subject, bench in benches.items()]),
        "Not in the model: look-ups in a table of embeddings beyond a copy's pace. Layers are timed one by one, each "
        "at its fastest, so an inference takes one to four per cent longer than their sum.",
        "By operator, all models together (vector work that a product swallows is counted to the product):",
        kinds_table(list(benches.values())),
        *[f"Not measured: {subject} ({why})." for subject, why in failed.items()],
        *([f"Not in this run: {', '.join(missing)}."] if missing else []),
    )


if __name__ == "__main__":
    main()
