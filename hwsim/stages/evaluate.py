"""``evaluate``: top-1/5, perplexity, and agreement with the float network, on the user's data.

The subject is a directory that ``hwsim quantize`` wrote, or the name of a float model. A quantized model is run
in real integer arithmetic, as an ensemble where it is one; beside its figures stand those of the float model on
the same samples, where the float weights can be found.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.data.dataset import IGNORED, DataRecord, Dataset, sha256_of_file
from hwsim.data.open import open_data
from hwsim.errors import UserError
from hwsim.files import existing_data
from hwsim.stages.calibration import input_form
from hwsim.stages.quantize import SOURCE, SourceRecord

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwsim.model.load import LoadedModel

Progress = Callable[[int, int], None]
IMAGE_BATCH, TEXT_BATCH = 16, 4


@dataclass(frozen=True)
class EvaluateRequest:
    """What to measure on which data."""

    subject: str
    data: str
    limit: int | None = None
    weights: Path | None = None
    tokenizer: Path | None = None
    batch: int | None = None
    sequence: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Figures of the subject and of the float model on the same data."""

    subject: str
    model: str
    metrics: dict[str, float]
    reference: dict[str, float] | None
    data: DataRecord
    remarks: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        from hwsim.report import notebook

        return notebook.evaluation(self)

    def document(self) -> dict[str, Any]:
        """The evaluation as plain JSON values."""
        return asdict(self)


def run_evaluate(request: EvaluateRequest, progress: Progress | None = None) -> Evaluation:
    """Measure a quantized directory or a float model."""
    existing_data(request.data, "--data")
    directory = Path(request.subject)
    if (directory / SOURCE).is_file():
        return _evaluate_quantized(request, directory, progress)
    if directory.is_dir():
        raise UserError(f"{directory}: not a directory that hwsim quantize wrote (no {SOURCE})")
    if "/" in request.subject and ":" not in request.subject and not directory.exists():
        raise UserError(f"{directory}: no such directory; name one that hwsim quantize wrote, or a model")
    model = _load(request, request.subject, request.weights, request.sequence, request.seed)
    data = _open(request, model)
    metrics, _, _ = _measure(model.module, None, data, model, progress)
    remarks = ("random weights: figures are illustrative",) if model.illustrative else ()
    remarks += _remarks(data.record, len(model.graph.outputs))
    return Evaluation(request.subject, model.resolved, metrics, None, data.record, remarks)


def _evaluate_quantized(request: EvaluateRequest, directory: Path, progress: Progress | None) -> Evaluation:
    from quant.ensemble import runnable
    from quant.qmodel import QuantizedModel

    source = SourceRecord.read(directory)
    _check_document(directory, source)
    weights, remarks = _float_weights(request, source)
    sequence = request.sequence or source.sequence
    model = _load(request, source.model, weights, sequence, source.seed)
    same = model.weights.sha256 == source.weights.get("sha256")
    if not same:
        remarks = (*remarks, "float weights not found: no comparison with the float model")
    quantized = QuantizedModel.load(directory, model.module)
    data = _open(request, model)
    metrics, floating, others = _measure(
        runnable(quantized), model.module if same else None, data, model, progress
    )
    remarks = (*source.remarks, *remarks, *_remarks(data.record, len(model.graph.outputs), others))
    return Evaluation(request.subject, model.resolved, metrics, floating, data.record, remarks)


def _check_document(directory: Path, source: SourceRecord) -> None:
    from quant.qstore import DOCUMENT

    path = directory / DOCUMENT
    if not path.is_file() or sha256_of_file(path) != source.quantized_sha256:
        raise UserError(f"{path}: missing, or not the one {SOURCE} describes; run hwsim quantize again")


def _float_weights(request: EvaluateRequest, source: SourceRecord) -> tuple[Path | None, tuple[str, ...]]:
    """The float weights to compare with: the flag, else the file the model was made from if it is there."""
    if request.weights is not None:
        if sha256_of_file(request.weights) != source.weights.get("sha256"):
            raise UserError(f"--weights {request.weights}: not the file that was quantized (sha256 differs)")
        return request.weights, ()
    if source.weights_file is None:
        return None, ()
    path = Path(source.weights_file)
    if path.is_file() and sha256_of_file(path) == source.weights.get("sha256"):
        return path, ()
    return None, (f"{path.name} was moved or changed; pass --weights to compare with float",)


def _load(
    request: EvaluateRequest, spec: str, weights: Path | None, sequence: int | None, seed: int
) -> "LoadedModel":
    """The model traced at the batch size of the evaluation."""
    from hwsim.model.load import load_batched

    usual = TEXT_BATCH if sequence is not None or spec.startswith("hf:") else IMAGE_BATCH
    return load_batched(spec, request.batch, usual, weights=weights, seed=seed, sequence=sequence)


def _open(request: EvaluateRequest, model: "LoadedModel") -> Dataset:
    return open_data(request.data, input_form(model), limit=request.limit, tokenizer=request.tokenizer)


def _measure(
    subject: "nn.Module",
    reference: "nn.Module | None",
    data: Dataset,
    model: "LoadedModel",
    progress: Progress | None,
) -> "tuple[dict[str, float], dict[str, float] | None, list[float]]":
    """Metrics of the subject and of the float reference over all batches, relative squared errors of later outputs."""
    import torch

    from quant.evaluate_metrics import Metrics

    found, floating, others, done = Metrics(), Metrics(), _OtherOutputs(), 0
    size = int(model.example_inputs[0].shape[0])
    with torch.no_grad():
        for batch in data.batches(size):
            made = subject(*batch.inputs)
            outputs = _of_samples(_first(made), size, batch.valid)
            labels = None if batch.labels is None else batch.labels[: batch.valid]
            labels = _fitting_labels(outputs, labels, data.record)
            expected: Tensor | None = None
            if reference is not None:
                wanted = reference(*batch.inputs)
                others.update(made, wanted, size, batch.valid)
                expected = _of_samples(_first(wanted), size, batch.valid)
                floating.update(expected, labels)
            found.update(outputs, labels, expected)
            done += batch.valid
            if progress is not None:
                progress(done, data.record.count)
    return found.result(), floating.result() if reference is not None else None, others.result()


class _OtherOutputs:
    """Squared errors of the outputs behind the first, over their squares."""

    def __init__(self) -> None:
        self.sums: dict[int, tuple[float, float]] = {}

    def update(self, made: object, wanted: object, size: int, valid: int) -> None:
        """Add a batch."""
        import torch

        from quant.predictions import comparable

        if not isinstance(made, tuple) or not isinstance(wanted, tuple):
            return
        pairs = zip(made[1:], wanted[1:], strict=True)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        for place, (one, exact) in enumerate(pairs):
            if (
                isinstance(exact, torch.Tensor)
                and exact.is_floating_point()
                and isinstance(one, torch.Tensor)
            ):
                one, exact = (_of_samples(tensor, size, valid).double() for tensor in (one, exact))
                error, square = self.sums.get(place, (0.0, 0.0))
                finite = comparable(exact, one)
                self.sums[place] = (
                    error + float((one - exact)[finite].square().sum()),
                    square + float(exact[finite].square().sum()),
                )

    def result(self) -> list[float]:
        """One figure for each output of real numbers."""
        return [error / max(square, 1e-24) for error, square in self.sums.values()]


def _of_samples(outputs: "Tensor", size: int, valid: int) -> "Tensor":
    """Of a batch of ``size`` what belongs to its first samples; of one without such an axis everything."""
    if not outputs.dim():
        return outputs.reshape(1)
    rows, rest = divmod(len(outputs), size)
    return outputs if rest or not rows else outputs[: rows * valid]


def _first(outputs: "Tensor | tuple[Tensor, ...]") -> "Tensor":
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _fitting_labels(outputs: "Tensor", labels: "Tensor | None", record: DataRecord) -> "Tensor | None":
    """Labels must stand for the model's classes, and for one prediction each; columns of one label are rows."""
    from quant.predictions import class_axis, classes_last

    if labels is None or class_axis(outputs) is None:
        return None
    outputs = classes_last(outputs)
    if (*outputs.shape[:-1], 1) == labels.shape:
        labels = labels[..., 0]
    if outputs.shape[:-1] != labels.shape and outputs.shape == labels.shape:
        raise UserError(
            f"{record.source}: labels of shape {tuple(labels.shape)} look one-hot; give the number of each class"
        )
    scored = labels[labels != IGNORED]
    lowest, highest = (int(scored.min()), int(scored.max())) if len(scored) else (0, 0)
    if outputs.shape[:-1] != labels.shape or highest >= outputs.shape[-1] or lowest < 0:
        raise UserError(
            f"{record.source}: labels {tuple(labels.shape)} from {lowest} up to {highest} do not fit the model's "
            f"outputs {tuple(outputs.shape)}; pass data made for this model"
        )
    return labels


def _remarks(record: DataRecord, outputs: int, others: Sequence[float] = ()) -> tuple[str, ...]:
    """What the figures leave out, and why no accuracy is among them."""
    errors = ", ".join(f"{error:.3g}" for error in others)
    told = f"; relative squared errors of the others: {errors}" if others else ""
    found = (f"figures of the first of {outputs} outputs{told}",) if outputs > 1 else ()
    if record.labelled:
        return found
    how = {
        "images": "a folder for each class, all images in one, or labels.csv with the columns file,label",
        "arrays": "an array y with the number of each sample's class",
    }.get(record.kind, "pairs of a sample and its label")
    return (*found, f"no labels in {record.source}, so no accuracy; give {how}")
