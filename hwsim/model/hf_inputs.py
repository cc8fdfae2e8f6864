"""Example inputs of a transformers model, from what its ``forward`` takes and what its configuration says.

Text models get random tokens, vision models seeded noise, audio models noise as samples or as a spectrogram;
models with a decoder or with two towers get both of their inputs.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwsim.errors import UserError
from hwsim.model.hf_configs import DEFAULT_SEQUENCE

SECOND = 16000  # samples of one second of speech
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class ExampleInputs:
    """Inputs of one model by name, in the order of its ``forward``."""

    def __init__(self, module: nn.Module, batch: int, sequence: int | None, device: str) -> None:
        self.config: Any = module.config
        self.forward = inspect.signature(type(module).forward).parameters
        self.main = str(getattr(module, "main_input_name", "input_ids"))
        self.name, self.batch, self.sequence, self.device = type(module).__name__, batch, sequence, device
        self.skipped = _skipped_positions(module)

    def make(self) -> dict[str, Tensor]:
        """All inputs that the model cannot do without."""
        wanted = {self.main}
        if self.config.is_encoder_decoder and "decoder_input_ids" in self.forward:
            wanted.add("decoder_input_ids")
        if "pixel_values" in self.forward and "input_ids" in self.forward and self._has_two_towers():
            wanted |= {"pixel_values", "input_ids"}
        if self.main == "input_ids" and self._reads_mask():
            wanted.add("attention_mask")
        return {name: self._input(name) for name in self.forward if name in wanted}

    def _has_two_towers(self) -> bool:
        """Text and image side by side; where images take the place of tokens, text alone is planned."""
        joined = ("image_token_index", "image_token_id")
        return not any(self.setting(name) is not None for name in joined)

    def _reads_mask(self) -> bool:
        if "attention_mask" not in self.forward or self.config.is_encoder_decoder:
            return False
        if "use_cache" not in self.forward:
            return True
        encoder = not getattr(self.config, "is_decoder", True)
        return encoder and self.config.model_type in ("bert", "roberta")

    def _input(self, name: str) -> Tensor:
        if name in ("input_ids", "decoder_input_ids"):
            return self._tokens(self.length(decoder=name.startswith("decoder")))
        if name == "attention_mask":
            return torch.ones(self.batch, self.length(), dtype=torch.long, device=self.device)
        if name == "pixel_values":
            return self._noise(self.image_size())
        if name == "input_features" and self.setting("max_source_positions") and self.setting("num_mel_bins"):
            return self._noise((self.setting("num_mel_bins"), 2 * self.setting("max_source_positions")))
        if name == "input_values":
            bins, frames = self.setting("num_mel_bins"), self.setting("max_length")
            return self._noise((frames, bins) if bins and frames else (self.sequence or SECOND,))
        raise UserError(
            f"{self.name}: what its input {name} looks like is not known here; write a function that returns the "
            "module and its example inputs, and give --model FILE.py:FUNCTION"
        )

    def length(self, decoder: bool = False) -> int:
        """Tokens of one sequence."""
        names = ("max_target_positions", "max_position_embeddings", "n_positions", "max_seq_len")
        limits = [self.setting(name) for name in (names if decoder else names[1:])]
        limit = next((value for value in limits if isinstance(value, int) and value > 0), None)
        limit = None if limit is None else limit - self.skipped
        length = self.sequence or min(DEFAULT_SEQUENCE, limit or DEFAULT_SEQUENCE)
        if limit is not None and length > limit:
            raise UserError(
                f"--sequence {length}: {self.name} has {limit} positions; ask for at most {limit}"
            )
        return length

    def image_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one picture."""
        size: Any = self.setting("image_size") or 224
        if isinstance(size, dict):
            size = (size.get("height", 224), size.get("width", 224))
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return int(self.setting("num_channels") or 3), int(height), int(width)

    def setting(self, name: str) -> Any:
        """A value of the configuration, or of one of those it consists of."""
        return _setting(self.config, name)

    def _tokens(self, length: int) -> Tensor:
        size, vocabulary = (self.batch, length), self.setting("vocab_size")
        if vocabulary is None:
            raise UserError(
                f"{self.name}: its configuration has no vocab_size, so no tokens can be made for it"
            )
        if self.device == "meta":
            return torch.empty(size, dtype=torch.long, device="meta")
        return torch.randint(0, vocabulary, size, generator=torch.Generator().manual_seed(0))

    def _noise(self, size: tuple[int, ...]) -> Tensor:
        return example_noise((self.batch, *size), self.device)


def example_noise(size: tuple[int, ...], device: str) -> Tensor:
    """Seeded noise, so that a run on the example inputs exercises every layer."""
    if device == "meta":
        return torch.empty(size, device="meta")
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def data_facts(inputs: ExampleInputs, folder: Path | None) -> dict[str, Any]:
    """What the rooms that read data must know: picture size and colours, or tokens."""
    if inputs.main == "pixel_values":
        return _image_facts(inputs, folder)
    if inputs.main != "input_ids":
        return {"kind": "custom"}
    return {
        "kind": "text", "sequence": inputs.length(), "vocab_size": inputs.setting("vocab_size"),
        "architecture": inputs.name, "folder": None if folder is None else str(folder),
    }  # fmt: skip


def _image_facts(inputs: ExampleInputs, folder: Path | None) -> dict[str, Any]:
    path = None if folder is None else folder / "preprocessor_config.json"
    given: dict[str, Any] = {}
    if path is not None and path.is_file():
        given = json.loads(path.read_text(encoding="utf-8"))
    return {
        "kind": "image", "input_size": inputs.image_size(), "mean": tuple(given.get("image_mean") or ()),
        "std": tuple(given.get("image_std") or ()), "interpolation": _RESAMPLING.get(given.get("resample", 3)),
        "crop_pct": None, "num_classes": getattr(inputs.config, "num_labels", None),
    }  # fmt: skip


def _setting(config: Any, name: str) -> Any:
    found = getattr(config, name, None)
    if found is not None:
        return found
    parts = [part for part in vars(config).values() if hasattr(part, "model_type")]
    return next((value for part in parts if (value := _setting(part, name)) is not None), None)


def _skipped_positions(module: nn.Module) -> int:
    """Rows of the position table that stand for padding and what lies before it, as in RoBERTa: never reached."""
    tables = (part for name, part in module.named_modules() if name.endswith("position_embeddings"))
    padding = (part.padding_idx for part in tables if isinstance(part, nn.Embedding))
    return max((index + 1 for index in padding if index is not None), default=0)


__all__ = ["ExampleInputs", "data_facts", "example_noise"]
