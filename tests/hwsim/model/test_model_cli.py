"""``hwsim model list`` and ``hwsim model show``."""

import json

import pytest
from typer.testing import CliRunner

from hwsim.cli.model import app
from hwsim.errors import UserError

runner = CliRunner()


def test_list_names_every_short_name_with_its_full_name():
    text = runner.invoke(app, ["list"]).stdout
    assert "timm:vit_base_patch16_224.augreg2_in21k_ft_in1k" in text
    found = json.loads(runner.invoke(app, ["list", "--json"]).stdout)
    assert {"name": "llama_7b", "resolved": "hf:huggyllama/llama-7b"} in found
    assert all(entry["name"] in text for entry in found)


def test_show_prints_layers_and_totals():
    result = runner.invoke(app, ["show", "resnet18"])
    assert result.exit_code == 0
    assert "layer4.1.conv2" in result.stdout
    assert "1 x 49 x 512 x 4608" in result.stdout
    assert "11,689,512 parameters" in result.stdout
    assert "1.814 G MACs" in result.stdout


def test_show_json_adds_up():
    document = json.loads(runner.invoke(app, ["show", "deit_t", "--json"]).stdout)
    assert document["model"] == "timm:deit_tiny_patch16_224.fb_in1k"
    assert document["totals"]["macs"] == sum(layer["macs"] for layer in document["layers"])
    split = document["totals"]["macs_with_weights"] + document["totals"]["macs_between_activations"]
    assert split == document["totals"]["macs"]
    assert document["weights"]["kind"] == "meta"


def test_show_lists_products_alone_and_tied_weights():
    text = runner.invoke(app, ["show", "opt_125m", "--products", "--sequence", "16"]).stdout
    assert "layer_norm" not in text
    assert "tied: lm_head.weight is read by model.decoder.embed_tokens, lm_head" in text


def test_unknown_model_is_a_user_error():
    result = runner.invoke(app, ["show", "vit_bb"])
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match="did you mean vit_b"):
        raise result.exception
