"""Build the eager network a model name stands for, without spending time on initial values.

Weights are filled afterwards (``hwsim.model.weights``), so the builders' own random initialisation is skipped: it is
the slowest part of creating a network and would be overwritten.
"""

import contextlib
import json
import logging
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hwsim.errors import UserError, first_line
from hwsim.model.factory import OwnWeights, build_from_factory
from hwsim.model.hf_configs import CONFIGS
from hwsim.model.hf_inputs import ExampleInputs, data_facts, example_noise
from hwsim.model.sources import ModelSource, unknown_name
from hwsim.model.torchvision_shim import declare_missing_operators

log = logging.getLogger(__name__)

Device = Literal["cpu", "meta"]


@dataclass(frozen=True)
class Built:
    """An eager network ready for export.

    Attributes:
        module: In eval mode; parameters hold arbitrary values (or none, on the meta device) unless ``own_weights``.
        args: Example inputs by position.
        kwargs: Example inputs and switches by name.
        data_config: Image mean, std and size, or tokenizer facts.
        own_weights: The builder gave the parameters their final values, or seeded random ones; None: neither.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    data_config: dict[str, Any] = field(default_factory=dict[str, Any])
    own_weights: OwnWeights | None = None


class _SkipRandomInit(TorchFunctionMode):
    """Makes random initialisers return their tensor untouched."""

    _SKIPPED = frozenset({
        torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_, torch.Tensor.clamp_,
        torch.Tensor.bernoulli_, torch.Tensor.log_normal_, torch.Tensor.exponential_,
        torch.nn.init.trunc_normal_, torch.nn.init.normal_, torch.nn.init.uniform_,
        torch.nn.init.kaiming_normal_, torch.nn.init.kaiming_uniform_, torch.nn.init.xavier_normal_,
        torch.nn.init.xavier_uniform_, torch.nn.init.orthogonal_,
    })  # fmt: skip

    _RESCALING = frozenset({torch.Tensor.mul_, torch.Tensor.add_, torch.Tensor.div_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        tensor = args[0] if args else named.get("tensor")
        if isinstance(tensor, Tensor):
            if func in self._SKIPPED:
                return tensor
            if func in self._RESCALING and isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **named)


@contextlib.contextmanager
def _cheaply(device: Device) -> Generator[None]:
    if device == "meta":
        with torch.device("meta"):
            yield
        return
    with _SkipRandomInit(), _without_truncation():
        yield


@contextlib.contextmanager
def _without_truncation() -> Generator[None]:
    """Skip torch's truncated normal as a whole: it draws until all is in range, without end where nothing is drawn."""
    name = "_no_grad_trunc_normal_"
    before = getattr(nn.init, name, None)
    if before is not None:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        if before is not None:
            setattr(nn.init, name, before)


def build(source: ModelSource, device: Device, batch: int, sequence: int | None, seed: int = 0) -> Built:
    """The network of a timm, transformers or factory source."""
    if source.source == "timm":
        return _build_timm(source, device, batch)
    if source.source == "hf":
        return _build_transformers(source, device, batch, sequence)
    module, (args, kwargs), weights = build_from_factory(source, batch, seed)
    return Built(module, args, kwargs, {"kind": "custom"}, own_weights=weights)


def no_length(spec: str) -> UserError:
    """``--sequence`` for a network whose inputs have no such axis, or come with it."""
    return UserError(
        f"--sequence: {spec} has no length to choose; only text and audio models of hf: have one"
    )


def _build_timm(source: ModelSource, device: Device, batch: int) -> Built:
    declare_missing_operators()
    import timm

    architecture = source.name.partition(".")[0]
    if not timm.is_model(architecture):
        raise UserError(unknown_name(architecture, timm.list_models(), "--model timm:"))
    arguments: dict[str, Any] = dict(source.arguments)
    for refused in sorted({"pretrained", "checkpoint_path"} & set(arguments)):
        raise UserError(f"--model {source.asked}: {refused} is not taken here; give the file with --weights")
    try:
        with _cheaply(device):
            module = timm.create_model(source.name, pretrained=False, **arguments)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(f"--model {source.asked}: timm cannot build it ({first_line(error)})") from error
    config: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    channels, height, width = config.get("input_size", (3, 224, 224))
    height, width = (int(arguments.get("img_size") or size) for size in (height, width))
    channels = int(arguments.get("in_chans") or channels)
    data = {
        "kind": "image", "input_size": (channels, height, width), "mean": tuple(config.get("mean", ())),
        "std": tuple(config.get("std", ())), "interpolation": config.get("interpolation"),
        "crop_pct": config.get("crop_pct"), "num_classes": getattr(module, "num_classes", None),
    }  # fmt: skip
    return Built(module.eval(), (example_noise((batch, channels, height, width), device),), {}, data)


def _build_transformers(source: ModelSource, device: Device, batch: int, sequence: int | None) -> Built:
    found, folder = _transformers_config(source)
    declare_missing_operators()
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values: dict[str, Any] = {**found, **source.arguments}
    kind = values.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"--model {source.asked}: model_type {kind!r} is unknown to transformers {transformers.__version__}"
        )
    architecture = (values.get("architectures") or [None])[0]
    try:
        config = CONFIG_MAPPING[kind](**values)
        with _cheaply(device):
            module = _transformers_module(transformers, config, architecture)
    except Exception as error:  # whatever a wrong configuration makes the library stumble over
        raise UserError(
            f"--model {source.asked}: transformers cannot build {architecture or kind} ({first_line(error)})"
        ) from error
    examples = ExampleInputs(module, batch, sequence, device)
    inputs, data = examples.make(), data_facts(examples, folder)
    if sequence is not None and data["kind"] == "image":
        raise no_length(source.asked)
    switches = {"use_cache": False} if "use_cache" in examples.forward else {}
    module.eval()
    if list(inputs) == list(examples.forward)[1:2]:  # by position, as pictures are given everywhere else
        return Built(module, tuple(inputs.values()), switches, data)
    return Built(module, (), {**inputs, **switches}, data)


def _transformers_module(library: Any, config: Any, architecture: str | None) -> Any:
    """With attention as one call where the model knows it, which export then opens; else as it is written."""

    def make(attention: str) -> Any:
        if architecture:
            cls: Any = getattr(library, architecture)
            return cls._from_config(config, attn_implementation=attention, dtype=torch.float32)
        return library.AutoModel.from_config(config, attn_implementation=attention)

    try:
        return make("sdpa")
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
    return make("eager")


def _transformers_config(source: ModelSource) -> tuple[dict[str, Any], Path | None]:
    """A local config.json, a built-in configuration, or the hub's."""
    path = Path(source.name)
    path = path / "config.json" if path.is_dir() else path
    if path.suffix == ".json":
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--model {source.asked}: cannot read {path} ({error.strerror})") from error
        except ValueError as error:
            raise UserError(f"--model {source.asked}: {path} is not JSON ({error})") from error
        if not isinstance(values, dict) or "model_type" not in values:
            raise UserError(
                f"--model {source.asked}: {path} has no model_type; give a transformers config.json"
            )
        return values, path.parent
    for name, values in CONFIGS.items():
        if source.name in (name, name.rpartition("/")[2]):
            return dict(values), None
    from hwsim.model.hub import fetch

    found = fetch(source.name, "config.json")
    if found is None:
        known = ", ".join(sorted(CONFIGS))
        raise UserError(
            f"--model {source.asked}: the hub cannot be reached and the configuration is not in its cache; "
            f"give hf:path/to/config.json, or one of {known}"
        )
    return json.loads(found.read_text(encoding="utf-8")), found.parent
