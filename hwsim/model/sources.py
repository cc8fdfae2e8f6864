"""Where a model comes from: short names, and the grammar of full names.

::

    short name                 vit_b, resnet18, bert_base ...       resolved, printed and recorded in full
    timm:NAME[.TAG]            timm:vit_base_patch16_224.augreg2_in21k_ft_in1k
    hf:NAME                    hf:bert-base-uncased, hf:path/to/config.json, hf:path/to/folder
    PATH.pt2                   a program saved by torch.export.save
    PATH.py:FACTORY            FACTORY() returns a module, or (module, example inputs)

Keyword arguments of the builder follow in brackets: ``timm:mobilenetv2_100[pad_type=same]``,
``hf:config.json[num_hidden_layers=2]``, ``nets.py:resnet[depth=20]``. Values are read as JSON where they are
JSON, else as text. This module imports nothing heavy.
"""

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hwsim.errors import UserError
from hwsim.model.torchvision_shim import declare_missing_operators

Source = Literal["timm", "hf", "pt2", "factory"]

# Weight tags are timm's defaults for these architectures; written out so that a record stays unambiguous.
SHORT_NAMES: dict[str, str] = {
    "vit_b": "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "vit_s": "timm:vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_t": "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "deit_t": "timm:deit_tiny_patch16_224.fb_in1k",
    "deit_s": "timm:deit_small_patch16_224.fb_in1k",
    "deit_b": "timm:deit_base_patch16_224.fb_in1k",
    "swin_t": "timm:swin_tiny_patch4_window7_224.ms_in1k",
    "swin_s": "timm:swin_small_patch4_window7_224.ms_in1k",
    "swin_b": "timm:swin_base_patch4_window7_224.ms_in22k_ft_in1k",
    "resnet18": "timm:resnet18.a1_in1k",
    "resnet50": "timm:resnet50.a1_in1k",
    "mobilenet_v2": "timm:mobilenetv2_100.ra_in1k",
    "regnetx_600mf": "timm:regnetx_006.pycls_in1k",
    "regnetx_3.2gf": "timm:regnetx_032.tv2_in1k",
    "mnasnet": "timm:mnasnet_100.rmsp_in1k",
    "bert_base": "hf:google-bert/bert-base-uncased",
    "minilm_l6": "hf:sentence-transformers/all-MiniLM-L6-v2",
    "opt_125m": "hf:facebook/opt-125m",
    "opt_350m": "hf:facebook/opt-350m",
    "llama_7b": "hf:huggyllama/llama-7b",
}
SHAPES_ONLY = frozenset(
    {"hf:huggyllama/llama-7b"}
)  # 27 GB in float32: planned without weights unless a file is given
Value = str | int | float | bool | None

_WEIGHTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
_FOREIGN = (".onnx", ".tflite", ".pb", ".h5", ".keras", ".mlmodel", ".gguf")
_ARGUMENTS = re.compile(r"(?P<head>.*)\[(?P<body>[^\[\]]*)\]")


@dataclass(frozen=True)
class ModelSource:
    """A parsed model name.

    Attributes:
        asked: As the user wrote it.
        source: Which loader reads it.
        name: Name for the loader: architecture with tag, hub name or path.
        factory: Function name, for ``factory`` sources.
        arguments: Keyword arguments for the builder.
    """

    asked: str
    source: Source
    name: str
    factory: str | None = None
    arguments: dict[str, Value] = field(default_factory=dict[str, Value])

    @property
    def resolved(self) -> str:
        """The full name, which parses to the same source again."""
        prefix = f"{self.source}:" if self.source in ("timm", "hf") else ""
        suffix = f":{self.factory}" if self.factory else ""
        body = ",".join(f"{key}={_print_value(value)}" for key, value in sorted(self.arguments.items()))
        return f"{prefix}{self.name}{suffix}" + (f"[{body}]" if body else "")


def parse_source(text: str) -> ModelSource:
    """Read a model name; a near miss of a short name gets a suggestion."""
    match = _ARGUMENTS.fullmatch(text.strip())
    head, body = (match.group("head"), match.group("body")) if match else (text.strip(), "")
    arguments = _parse_arguments(body, text)
    full = SHORT_NAMES.get(head, head)
    prefix, colon, rest = full.partition(":")
    if colon and prefix in ("timm", "hf"):
        if not rest:
            example = SHORT_NAMES["vit_b" if prefix == "timm" else "bert_base"]
            raise UserError(f"--model {text}: name missing after {prefix}:; e.g. {example}")
        return ModelSource(text, "timm" if prefix == "timm" else "hf", rest, None, arguments)
    if full.endswith(".pt2"):
        if arguments:
            raise UserError(f"--model {text}: a .pt2 program is fixed; drop the arguments in brackets")
        return ModelSource(text, "pt2", full)
    path, colon, factory = full.rpartition(":")
    if colon and path.endswith(".py") and factory.isidentifier():
        return ModelSource(text, "factory", path, factory, arguments)
    if _is_timm(full):
        raise UserError(f"--model {head}: no short name; timm has a network of this name, write timm:{head}")
    raise UserError(unknown_name(head, SHORT_NAMES, "--model"))


def _is_timm(name: str) -> bool:
    """Asked only once a name is known to nobody else: timm takes seconds to load."""
    try:
        declare_missing_operators()
        import timm
    except ImportError:
        return False
    return timm.is_model(name.partition(".")[0])


def unknown_name(name: str, known: "dict[str, str] | list[str]", where: str) -> str:
    """One line that says ``name`` is unknown and offers the nearest known names."""
    near = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `hwsim model list`"
    suffix = Path(name).suffix.lower()
    if suffix == ".py":
        hint = f"name the function that builds the model, e.g. {name}:build"
    elif suffix in _WEIGHTS:
        hint = "a file of weights alone is no model; name the model and give the file with --weights"
    elif suffix in _FOREIGN:
        hint = f"{suffix} is not read; export the torch model with torch.export.save to a .pt2 file"
    return f"{where} {name}: unknown model; {hint} (also timm:NAME, hf:NAME, FILE.pt2, FILE.py:FUNCTION)"


def _parse_arguments(body: str, text: str) -> dict[str, Value]:
    arguments: dict[str, Value] = {}
    for item in filter(None, (part.strip() for part in body.split(","))):
        key, equals, value = item.partition("=")
        if not equals or not key.strip().isidentifier():
            raise UserError(
                f"--model {text}: {item!r} is not KEY=VALUE; e.g. timm:mobilenetv2_100[pad_type=same]"
            )
        arguments[key.strip()] = _parse_value(value.strip())
    return arguments


def _parse_value(text: str) -> Value:
    try:
        value = json.loads(text.lower() if text in ("True", "False") else text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, str | int | float | bool) or value is None else text


def _print_value(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)
