"""What people hand to the verbs, brought to what the stages take: names and files.

A network or a device that lives in memory only is written beside the result first (``CLASS.pt2``,
``target.yaml``), so that whatever Python did can be repeated from the command line.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim import files
from hwsim.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from hwsim.stages.plan import PlanResult
    from hwsim.target.schema import Target

    ModelLike = str | Path | nn.Module
    TargetLike = str | Path | Target
    PlanLike = PlanResult | str | Path


def path(value: str | Path | None, flag: str = "") -> Path | None:
    """A path; with a flag to name it must be a readable file."""
    if value is None:
        return None
    return files.existing_file(Path(value), flag) if flag else Path(value)


def text(value: str | Path | None) -> str | None:
    """A name or path as text."""
    return None if value is None else str(value)


def model_name(model: "ModelLike") -> str:
    """What to call the model in the name of a directory."""
    return str(model) if isinstance(model, str | Path) else type(model).__name__


def model_spec(model: "ModelLike", example_inputs: Any, directory: Path) -> str:
    """A model's name; a module is exported with its example inputs to ``CLASS.pt2`` in the directory."""
    if isinstance(model, str | Path):
        if example_inputs is not None:
            raise UserError(
                "example_inputs: only a torch.nn.Module needs them; a model by name brings its own"
            )
        return str(model)
    from hwsim.model.saved import save_module

    return str(save_module(model, example_inputs, directory / f"{model_name(model)}.pt2"))


def target_name(target: "TargetLike") -> str:
    """What to call the target in the name of a directory."""
    return str(target) if isinstance(target, str | Path) else target.name


def target_spec(target: "TargetLike", directory: Path) -> str:
    """A target's name or path; an object is written to ``target.yaml`` in the directory."""
    if isinstance(target, str | Path):
        return str(target)
    file = directory / "target.yaml"
    files.write_text(file, target.to_json() + "\n")  # JSON is YAML
    return str(file)


def plan_file(plan: "PlanLike") -> Path:
    """The ``plan.json`` of a result, of a directory, or the file itself."""
    found = Path(plan) if isinstance(plan, str | Path) else plan.directory
    found = found / "plan.json" if found.is_dir() else found
    if not found.exists():
        raise UserError(f"plan {plan}: no plan.json here; give a plan, its directory or its plan.json")
    return files.existing_file(found, "plan")


def output_directory(asked: str | Path | None, plan: "PlanLike | None", name: str, otherwise: str) -> Path:
    """The directory asked for, else ``name`` beside the plan, else one under ``out/``."""
    if asked is not None:
        return Path(asked)
    return Path("out") / otherwise if plan is None else plan_file(plan).parent / name
