"""A .pt2 archive is a zip with pickled parts; a hostile one must not run code."""

import os
import pickle
import zipfile

import pytest
import torch

from hwsim.errors import UserError
from hwsim.model.load import load_model
from tests.small_models import conv_net


class Bomb:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


@pytest.fixture
def saved(tmp_path):
    module, inputs = conv_net()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, inputs), path)
    return path


def test_an_honest_program_loads(saved):
    assert [layer.name for layer in load_model(str(saved)).graph.products()]


def test_a_bomb_in_the_sample_inputs_does_not_go_off(saved, tmp_path):
    mark, hostile = tmp_path / "exploded", tmp_path / "hostile.pt2"
    planted = 0
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(hostile, "w") as target:
        for item in source.infolist():
            data = source.read(item)
            if "sample_inputs" in item.filename:
                data = pickle.dumps(Bomb(str(mark)))
                planted += 1
            target.writestr(item.filename, data)
    assert planted == 1
    with pytest.raises(UserError, match=r"hostile\.pt2"):
        load_model(str(hostile))
    assert not mark.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
