"""``run``: execute a compiled artifact on an image or on arrays; imports neither torch nor the compiler."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim import files
from hwsim.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hwsim.runtime import Runner

    Input = str | Path | NDArray[Any] | Mapping[str, NDArray[Any]]

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


@dataclass(frozen=True)
class RunResult:
    """Outputs by name, the largest of the last row, and the time where it was asked for."""

    model: str
    illustrative: bool
    outputs: "dict[str, NDArray[Any]]"
    top: tuple[tuple[int, float], ...]
    median_seconds: float | None = None

    def document(self) -> dict[str, Any]:
        """The result as plain JSON values; of the outputs the shapes alone."""
        document: dict[str, Any] = {
            "model": self.model,
            "illustrative": self.illustrative,
            "outputs": {name: list(array.shape) for name, array in self.outputs.items()},
            "top": [{"index": index, "value": value} for index, value in self.top],
        }
        if self.median_seconds is not None:
            document["median_ms"] = 1e3 * self.median_seconds
        return document

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        return notebook.run(self)


def run_artifact(
    artifact: Path, given: "Input", *, output: Path | None = None, repeat: int = 0, top: int = 5
) -> RunResult:
    """Verify, load and run once; ``repeat`` further runs are timed."""
    import numpy as np

    from hwsim.runtime import load

    if output is not None:
        output = output if output.suffix == ".npz" else output.with_name(f"{output.name}.npz")
        files.check_writable(output.parent)
    model = load(artifact)
    model.set_inputs(**_arrays(given, model))
    model.run()
    outputs = model.get_outputs()
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        np.savez(output, **outputs)  # pyright: ignore[reportArgumentType]
    first = outputs[model.outputs[0].name]
    scores = first.reshape(-1, first.shape[-1])[-1]
    order = np.argsort(-scores, kind="stable")[:top]
    return RunResult(
        model=str(model.manifest.get("model")),
        illustrative=bool(model.manifest.get("illustrative")),
        outputs=outputs,
        top=tuple((int(index), float(scores[index])) for index in order),
        median_seconds=_median_seconds(model, repeat) if repeat else None,
    )


def _arrays(given: "Input", model: "Runner") -> "dict[str, np.ndarray]":
    """Input arrays by name."""
    if isinstance(given, str | Path):
        return _read(files.existing_file(Path(given), "--input"), model)
    if isinstance(given, Mapping):
        return dict(given)
    return {model.inputs[0].name: given}


def _read(path: Path, model: "Runner") -> "dict[str, np.ndarray]":
    import numpy as np

    if path.suffix.lower() in _IMAGES:
        from hwsim.runtime.image import read_image

        port = model.inputs[0]
        return {port.name: read_image(path, port.shape, model.manifest.get("preprocess", {}))}
    if path.suffix != ".npz":
        raise UserError(f"--input {path}: pass an image or an .npz with {[p.name for p in model.inputs]}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"--input {path}: not an .npz; write one with numpy.savez(path, name=array)")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [p.name for p in model.inputs]
            if len(names) == len(arrays.files) == 1:  # a lone array is the lone input, whatever its name
                return {names[0]: arrays[arrays.files[0]]}
            wanted = names if all(n in arrays.files for n in names) else arrays.files
            return {name: arrays[name] for name in wanted}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"--input {path}: not a readable .npz ({error})") from error


def _median_seconds(model: "Runner", repeat: int) -> float:
    from statistics import median
    from time import perf_counter

    times: list[float] = []
    for _ in range(repeat):
        start = perf_counter()
        model.run()
        times.append(perf_counter() - start)
    return median(times)
