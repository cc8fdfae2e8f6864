"""Example inputs of transformers models: what a forward takes and a configuration says, without the library."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hwsim.errors import UserError
from hwsim.model.hf_inputs import ExampleInputs, data_facts


def config(**settings):
    return SimpleNamespace(**{"model_type": "any", "is_encoder_decoder": False, **settings})


def examples(forward, main, settings, sequence=None):
    module = type("Net", (nn.Module,), {"forward": forward, "main_input_name": main})()
    module.config = config(**settings)
    return ExampleInputs(module, 2, sequence, "cpu")


def shapes(made):
    return {name: tuple(tensor.shape) for name, tensor in made.make().items()}


def test_tokens_with_a_mask():
    made = examples(
        lambda self, input_ids, attention_mask: None,
        "input_ids",
        {"vocab_size": 9, "max_position_embeddings": 64},
    )
    assert shapes(made) == {"input_ids": (2, 64), "attention_mask": (2, 64)}
    assert int(made.make()["input_ids"].max()) < 9
    assert data_facts(made, None)["sequence"] == 64


def test_decoders_mask_nothing():
    forward = lambda self, input_ids, attention_mask, use_cache: None  # noqa: E731
    made = examples(
        forward, "input_ids", {"vocab_size": 9, "max_position_embeddings": 999, "is_decoder": True}, 5
    )
    assert shapes(made) == {"input_ids": (2, 5)}


def test_encoder_and_decoder():
    forward = lambda self, input_features, decoder_input_ids, use_cache: None  # noqa: E731
    settings = {"is_encoder_decoder": True, "num_mel_bins": 16, "max_source_positions": 20}
    made = examples(forward, "input_features", {**settings, "max_target_positions": 8, "vocab_size": 9})
    assert shapes(made) == {"input_features": (2, 16, 40), "decoder_input_ids": (2, 8)}


def test_two_towers():
    parts = {
        "text_config": config(vocab_size=9, max_position_embeddings=6),
        "vision_config": config(image_size=32, num_channels=1),
    }
    forward = lambda self, input_ids, pixel_values: None  # noqa: E731
    assert shapes(examples(forward, "input_ids", parts)) == {
        "input_ids": (2, 6),
        "pixel_values": (2, 1, 32, 32),
    }
    assert shapes(examples(forward, "input_ids", {**parts, "image_token_id": 3})) == {"input_ids": (2, 6)}


def test_pictures_and_their_colours(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5], "image_std": [0.2], "resample": 2}'
    )
    made = examples(
        lambda self, pixel_values: None, "pixel_values", {"image_size": [24, 32], "num_labels": 7}
    )
    assert shapes(made) == {"pixel_values": (2, 3, 24, 32)}
    facts = data_facts(made, tmp_path)
    assert (facts["mean"], facts["interpolation"], facts["num_classes"]) == ((0.5,), "bilinear", 7)


@pytest.mark.parametrize(
    ("settings", "shape"), [({}, (2, 16000)), ({"num_mel_bins": 8, "max_length": 30}, (2, 30, 8))]
)
def test_sound(settings, shape):
    made = examples(lambda self, input_values: None, "input_values", settings)
    assert shapes(made) == {"input_values": shape}
    assert made.make()["input_values"].dtype == torch.float32


def test_what_is_not_known_is_said():
    with pytest.raises(UserError, match="past_values looks like is not known"):
        examples(lambda self, past_values: None, "past_values", {}).make()
    with pytest.raises(UserError, match="ask for at most 8"):
        settings = {"vocab_size": 9, "max_position_embeddings": 8}
        examples(lambda self, input_ids: None, "input_ids", settings, 9).make()


def test_positions_of_padding_are_not_reached():
    """RoBERTa counts from behind the padding's row: of 64 rows the first two stand for no token."""
    module = nn.Module()
    module.position_embeddings = nn.Embedding(64, 4, padding_idx=1)
    module.config = config(vocab_size=9, max_position_embeddings=64)
    assert ExampleInputs(module, 2, None, "cpu").length() == 62
    with pytest.raises(UserError, match="62 positions"):
        ExampleInputs(module, 2, 64, "cpu").length()
