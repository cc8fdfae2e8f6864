"""One flat graph of a module by ``torch.export``.

The exported program is kept at the level of its high operators (``linear``, ``conv2d``, ``layer_norm``, ``gelu``),
which is what people plan and quantize; only what hides a product is opened later. Parameters, which export lifts to
inputs, are put back as ``get_attr`` nodes under the names they have in the model.
"""

import contextlib
import io
import logging
import operator
import sysconfig
import traceback
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from hwsim.errors import UserError, first_line
from hwsim.model import rewrite


@contextlib.contextmanager
def _plain_kernels() -> Generator[None]:
    """Keep the fused inference path of nn.TransformerEncoder away: it hides its products in one call."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def export_program(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, name: str = "model"
) -> ExportedProgram:
    """Trace a module in eval mode with fixed shapes."""
    for part, _ in module.named_modules():
        if '"' in part or "\n" in part:
            raise UserError(
                f"{name}: module name {part!r} has a quote or a line break, which torch.fx cannot write"
            )
    with contextlib.suppress(NotImplementedError):  # a program that was exported once has no modes
        module.eval()
    try:
        with _plain_kernels(), _without_dump():
            return torch.export.export(module, args, kwargs or {}, strict=False)
    except Exception as error:
        raise UserError(
            f"{name}: torch.export cannot trace this model{_traced_line(error)} ({first_line(error)}); "
            "make its forward free of branches on tensor values, or check the example inputs"
        ) from error


_TALKATIVE = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor")


@contextlib.contextmanager
def _without_dump() -> Generator[None]:
    """Keep back what torch prints of a graph that fails, and its advice to its own developers; the error says it."""
    logs = [logging.getLogger(name) for name in _TALKATIVE]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)


def _traced_line(error: Exception) -> str:
    """Where the model's own code stood: the last line of the traceback that is neither torch's nor a library's."""
    home = Path(torch.__file__).parent
    libraries = (home, home.with_name("sympy"), Path(sysconfig.get_path("stdlib")), Path(__file__).parent)
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(folder in Path(frame.filename).parents for folder in libraries)
    ]
    return f" at {own[-1].filename}:{own[-1].lineno}, {own[-1].line!r}" if own else ""


def graph_module(program: ExportedProgram) -> fx.GraphModule:
    """The program as a plain graph module: parameters as attributes, outputs as a flat tuple."""
    if _writes_through_views(program):
        with _without_dump():
            program = program.run_decompositions({})
    module = fx.GraphModule(torch.nn.Module(), fx.Graph())
    graph, copies = module.graph, dict[fx.Node, Any]()
    sources = {
        spec.arg.name: spec
        for spec in program.graph_signature.input_specs
        if spec.kind != InputKind.USER_INPUT
    }
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in sources:
            copies[node] = _annotated(_stored(module, program, sources[node.name]), node)
        elif node.op == "output":
            graph.output(_results(program, node, copies))
        else:
            _copy(graph, program.graph_module, node, copies)
    return module


def _copy(graph: fx.Graph, owner: torch.nn.Module, node: fx.Node, copies: dict[fx.Node, Any]) -> None:
    """One node of ``owner``; a call of a part that was traced under a switch (autocast, no_grad) is written out."""
    if node.op == "get_attr" and isinstance(part := getattr(owner, str(node.target), None), fx.GraphModule):
        copies[node] = part
    elif isinstance(node.target, HigherOrderOperator):
        given = [copies.get(item, item) if isinstance(item, fx.Node) else item for item in node.args]
        parts = [i for i, item in enumerate(given) if isinstance(item, fx.GraphModule)]
        if len(parts) != 1:
            raise UserError(
                f"model: {node.target} decides at run time what is computed; plan each of its branches as a model"
                if parts
                else f"model: {node.target} calls no traced part; torch.export must be able to open it"
            )
        place = parts[0]
        copies[node] = _written_out(graph, given[place], given[place + 1 :])  # pyright: ignore[reportArgumentType]
    elif node.target is operator.getitem and isinstance(copies[node.args[0]], tuple | list):  # type: ignore[index]
        copies[node] = copies[node.args[0]][node.args[1]]  # type: ignore[index]
    else:
        copies[node] = _annotated(graph.node_copy(node, copies.__getitem__), node)


def _written_out(graph: fx.Graph, part: fx.GraphModule, inputs: list[Any]) -> Any:
    given, copies = iter(inputs), dict[fx.Node, Any]()
    for node in part.graph.nodes:
        if node.op == "placeholder":
            copies[node] = next(given)
        elif node.op == "output":
            return fx.node.map_arg(node.args[0], copies.__getitem__)  # type: ignore[attr-defined]
        else:
            _copy(graph, part, node, copies)
    return None


def _annotated(copy: fx.Node, node: fx.Node) -> fx.Node:
    copy.meta = {key: node.meta[key] for key in rewrite.KEPT_META if key in node.meta}
    copy.meta["val"] = rewrite.to_meta(node.meta.get("val"))
    return copy


def _stored(module: fx.GraphModule, program: ExportedProgram, spec: Any) -> fx.Node:
    """A get_attr node for a lifted parameter, buffer or constant."""
    tensor = program.state_dict.get(spec.target)
    if tensor is None:
        tensor = program.constants.get(spec.target)
    if not isinstance(tensor, Tensor):
        raise UserError(
            f"model: {spec.target} is a {type(tensor).__name__}, not a tensor; it cannot be exported"
        )
    rewrite.set_tensor(module, spec.target, tensor.detach(), parameter=spec.kind == InputKind.PARAMETER)
    return module.graph.create_node("get_attr", spec.target)


def _results(program: ExportedProgram, output: fx.Node, copies: dict[fx.Node, Any]) -> tuple[fx.Node, ...]:
    """What the model returns, without the buffers it would update."""
    specs = program.graph_signature.output_specs
    values = output.args[0]
    assert isinstance(values, tuple | list)
    return tuple(
        copies[item]
        for item, spec in zip(values, specs, strict=True)
        if spec.kind == OutputKind.USER_OUTPUT and isinstance(item, fx.Node)
    )


_VIEW_MAKERS = {"slice", "select", "view", "transpose", "permute", "unsqueeze", "expand", "narrow", "getitem"}


def _writes_through_views(program: ExportedProgram) -> bool:
    """Whether some call writes into a view, so that calls cannot be replaced one by one."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not rewrite.writes(node.target):
            continue
        written = node.args[0] if node.args else None
        if isinstance(written, fx.Node) and _base_name(written.target) in _VIEW_MAKERS:
            return True
        if str(node.target).startswith(("aten.copy_", "aten.index_put_")):
            return True
    return False


def _base_name(target: Any) -> str:
    if target is operator.getitem:
        return "getitem"
    return str(target).removeprefix("aten.").partition(".")[0] if target is not None else ""
