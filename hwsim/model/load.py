"""Load a network by name or file: one exported graph, one name per layer.

What the passes that follow may rely on in ``LoadedModel.module``, a plain ``torch.fx.GraphModule``:

* Product nodes are ``call_function`` nodes of exactly three targets:
  ``aten.linear.default(x, weight, bias | None)``, ``aten.conv2d.default(x, weight, bias | None, [s, s], [p, p],
  [d, d], groups)`` with all seven arguments by position, and ``aten.matmul.default(a, b)``.
* ``weight`` and ``bias`` of linear and conv2d are ``get_attr`` nodes whose target is a name in
  ``module.state_dict()``; weights have the shape (outputs, inputs per group, ...). Tied weights are one name read by
  several nodes. ``Layer.weight`` and ``Layer.bias`` are these names.
* Every layer node (product or vector work) carries ``node.meta["layer"]`` (its unique name) and ``node.meta["kind"]``;
  views carry neither. ``node.meta["val"]`` is a tensor (or list) on the meta device with shape and type.
* Attention is ``mul(q, scale)``, ``matmul`` (``.qk``), ``add`` of an additive mask if there is one, ``softmax``,
  ``matmul`` (``.av``). RMS norms are one ``aten.rms_norm.default``. Batch norms behind a product are folded into it
  and leave ``node.meta["batch_norm"]``; any other stays ``aten.batch_norm.default``. Dropout, in-place calls and
  no-ops are gone; views are ``reshape, permute, transpose, slice, select, expand, unsqueeze, squeeze, flatten, split,
  chunk, unbind, getitem`` and casts (``to``).
* Everything that does not depend on the inputs is a stored tensor.
* The module is called with ``example_inputs`` by position and returns a tuple. Shapes are fixed.
"""

import contextlib
import logging
import os
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from hwsim.errors import UserError
from hwsim.model import rewrite
from hwsim.model.archive_check import refuse_code
from hwsim.model.attention import open_attention
from hwsim.model.build import Built, Device, build, no_length
from hwsim.model.export import export_program, graph_module
from hwsim.model.fold import fold_batch_norms
from hwsim.model.graph import LayerGraph
from hwsim.model.inputs import computes_otherwise, in_float32, tensors
from hwsim.model.layers import layer_graph
from hwsim.model.naming import assign_names
from hwsim.model.norms import recognise_rms_norms
from hwsim.model.pretrained import load_pretrained
from hwsim.model.products import align_batches, normalise_products
from hwsim.model.random_statistics import set_batch_statistics
from hwsim.model.simplify import clean, drop_neutral_masks, fold_constants
from hwsim.model.sources import SHAPES_ONLY, ModelSource, parse_source
from hwsim.model.transposed import open_transposed
from hwsim.model.weights import WeightsInfo, fill_random, load_file, sha256_of_file, sha256_of_tensors

log = logging.getLogger(__name__)
Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class LoadedModel:
    """A network ready to be planned, quantized, compiled and simulated.

    Attributes:
        spec: The name as asked.
        resolved: The full name; ``load_model(resolved)`` loads the same.
        weights: What the numbers are.
        module: The exported graph module (see the module docstring for what may be relied on).
        graph: The layer graph.
        example_inputs: Inputs of the exported shapes.
        data_config: Image mean, std and size, or tokenizer facts.
        batch_norms: By layer name, mean and deviation of each output channel of the product, as the batch norm
            that was folded into it had seen them in training. Empty without batch norms; random weights have
            those of seeded noise.
    """

    spec: str
    resolved: str
    weights: WeightsInfo
    module: fx.GraphModule
    graph: LayerGraph
    example_inputs: tuple[Tensor, ...]
    data_config: dict[str, Any] = field(default_factory=dict[str, Any])
    batch_norms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict[str, tuple[Tensor, Tensor]])

    @property
    def illustrative(self) -> bool:
        """Whether accuracy-like figures mean nothing beyond illustration (weights are not trained ones)."""
        return self.weights.kind in ("random", "meta")


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    seed: int = 0,
    device: Device = "cpu",
    batch: int = 1,
    sequence: int | None = None,
) -> LoadedModel:
    """Load, export and simplify a network.

    Args:
        spec: Short name, ``timm:``, ``hf:``, ``.pt2`` file or ``file.py:factory`` (``hwsim.model.sources``).
        weights: ``.safetensors`` or ``.pth`` file; without it the hub is asked, then a seed.
        seed: Of random weights.
        device: ``meta`` plans from shapes alone and takes no memory for weights.
        batch: Images or sequences per inference.
        sequence: Tokens per sequence, for language models.
    """
    source = parse_source(spec)
    if batch < 1 or (sequence is not None and sequence < 1):
        raise UserError(f"--model {spec}: batch and sequence must be at least 1")
    if sequence is not None and source.source != "hf":
        raise no_length(spec)
    if source.source == "pt2":
        return _load_program(source, weights)
    if weights is None and source.resolved in SHAPES_ONLY and device != "meta":
        log.warning("%s: planned from its shapes alone, without weights", source.resolved)
        device = "meta"
    built = build(source, device, batch, sequence, seed)
    info = _give_weights(source, built, weights, seed)
    program = export_program(built.module, built.args, built.kwargs, source.resolved)
    parameters = sum(parameter.numel() for parameter in built.module.parameters())
    return _finish(source, info, program, tensors(built.args, built.kwargs), built.data_config, parameters)


def of_batch(model: LoadedModel, batch: int) -> LoadedModel:
    """``model`` if it is traced at the batch that the user asked for: a file's own inputs may be of another."""
    if batch > 1 and not any(item.shape[:1] == (batch,) for item in model.example_inputs):
        shapes = ", ".join("x".join(map(str, item.shape)) for item in model.example_inputs)
        raise UserError(
            f"--batch {batch}: {model.spec} brings its own inputs of {shapes}; change the batch there"
        )
    return model


def load_batched(
    spec: str, asked: int | None, usual: int, *, weights: Path | None, seed: int, sequence: int | None
) -> LoadedModel:
    """The model at the batch asked for, else at the usual one, which a user's own module may not take: then at 1."""
    try:
        return load_model(spec, weights=weights, seed=seed, batch=asked or usual, sequence=sequence)
    except UserError:
        if asked is not None or parse_source(spec).source != "factory":
            raise
    model = load_model(spec, weights=weights, seed=seed, batch=1, sequence=sequence)
    log.warning("%s: takes no batch of %d; run one sample at a time", spec, usual)
    return model


def _give_weights(source: ModelSource, built: Built, weights: Path | None, seed: int) -> WeightsInfo:
    on_meta = any(parameter.is_meta for parameter in built.module.parameters())
    if weights is not None:
        if on_meta:
            raise UserError(
                f"--weights {weights}: the model is planned from shapes alone; drop one of the two"
            )
        load_file(built.module, weights)
        return WeightsInfo("file", weights.name, sha256_of_file(weights))
    if on_meta:
        return WeightsInfo("meta")
    if built.own_weights == "given":
        return WeightsInfo("file", source.resolved, sha256_of_tensors(built.module.state_dict()))
    if built.own_weights == "random":
        log.warning(
            "%s: another seed gives other weights, so they are random; accuracy-like figures are illustrative",
            source.resolved,
        )
        return WeightsInfo("random", source.resolved, sha256_of_tensors(built.module.state_dict()), seed)
    found = load_pretrained(source, built.module)
    if found is not None:
        return found
    fill_random(built.module, seed)
    set_batch_statistics(built.module, built.args, seed)
    return WeightsInfo("random", None, sha256_of_tensors(built.module.state_dict()), seed)


def _load_program(source: ModelSource, weights: Path | None) -> LoadedModel:
    """A program that torch.export.save wrote; it brings its own weights and inputs."""
    path = Path(source.name)
    if weights is not None:
        raise UserError(f"--weights {weights}: a .pt2 program brings its own weights; drop the flag")
    if not path.is_file():
        raise UserError(f"--model {source.asked}: no such file {path}")
    try:
        refuse_code(path)
        with _no_unpickling():
            program = torch.export.load(path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"--model {path}: not a program saved by torch.export.save ({type(error).__name__})"
        ) from error
    program, inputs = _fixed(program, source.asked)
    info = WeightsInfo("file", path.name, sha256_of_file(path))
    parameters = sum(parameter.numel() for parameter in program.parameters())
    return _finish(source, info, program, inputs, {"kind": "custom"}, parameters)


def _fixed(
    program: torch.export.ExportedProgram, asked: str
) -> "tuple[torch.export.ExportedProgram, Tensors]":
    """The program at the sizes of its example inputs, in float32: it is traced again where it leaves them open."""
    args, kwargs = program.example_inputs or ((), {})
    inputs = tensors(args, kwargs)
    if not inputs:
        raise UserError(
            f"--model {asked}: brings no example inputs; export it with torch.export.export again"
        )
    module = program.module()
    if not program.range_constraints and not computes_otherwise(module):
        return program, inputs
    args, kwargs = in_float32(module, (args, kwargs), asked)
    if program.range_constraints:
        shapes = ", ".join("x".join(map(str, item.shape)) for item in inputs)
        log.warning("%s: leaves sizes open; those of its example inputs are taken: %s", asked, shapes)
    return export_program(module, args, kwargs, asked), tensors(args, kwargs)


@contextlib.contextmanager
def _no_unpickling() -> Generator[None]:
    """Let torch's restricted reader alone open the pickled parts of an archive (inputs, odd weights).

    ``torch.export.load`` falls back to the unrestricted one unless this variable forbids it.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _finish(
    source: ModelSource,
    info: WeightsInfo,
    program: torch.export.ExportedProgram,
    inputs: tuple[Tensor, ...],
    data_config: dict[str, Any],
    parameters: int,
) -> LoadedModel:
    module = graph_module(program)
    simplify(module)
    graph = layer_graph(module, source.resolved, parameters)
    norms = {
        str(node.meta["layer"]): node.meta["batch_norm"]
        for node in module.graph.nodes
        if "batch_norm" in node.meta and "layer" in node.meta
    }
    return LoadedModel(source.asked, source.resolved, info, module, graph, inputs, data_config, norms)


def simplify(module: fx.GraphModule) -> None:
    """All passes from the exported graph to the named one."""
    clean(module)
    recognise_rms_norms(module)
    fold_constants(module)
    drop_neutral_masks(module)
    open_transposed(module)
    normalise_products(module)
    fold_batch_norms(module)
    open_attention(module)
    align_batches(module)
    fold_constants(module)
    _settle(module)
    assign_names(module)
    module.graph.lint()
    module.recompile()
    module.eval()


def _settle(module: fx.GraphModule) -> None:
    """Stored tensors contiguous; each node that reads one knows whether it is a parameter."""
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        tensor = rewrite.get_tensor(module, name)
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        if not tensor.is_contiguous():
            rewrite.set_tensor(module, name, tensor.detach().contiguous(), parameter=is_parameter)
        node.meta["parameter"] = is_parameter
