"""Options that `hwsim quantize` and `hwsim compile` share: what to quantize, and on which samples."""

from pathlib import Path
from typing import Annotated

import typer

from hwsim.cli import complete

OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Directory to write.")]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="A plan.json that hwsim plan wrote, or its directory.")
]
SchemeName = Annotated[
    str | None,
    typer.Option("--scheme", help="Instead of a plan: one scheme for all layers, for example w4a8.o2.g50."),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", autocompletion=complete.models, help="Model; default: the one the plan was made for."
    ),
]
WeightsFile = Annotated[
    Path | None, typer.Option("--weights", help="Weights: .safetensors, or .pth without code.")
]
CalibrationData = Annotated[
    str | None,
    typer.Option(
        "--calibration-data",
        help="Samples for the activation ranges: folder or .zip of images, .npz, .txt, or FILE.py:FUNCTION; "
        "default: synthetic inputs.",
    ),
]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Calibration samples to use.")]
Sequence = Annotated[
    int | None, typer.Option("--sequence", min=1, help="Tokens per sample of a language model.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of random weights and synthetic inputs.")]
