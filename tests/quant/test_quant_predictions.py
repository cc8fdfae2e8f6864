"""Where the classes of an output lie."""

import pytest
import torch

from quant.predictions import class_axis, classes_last, output_power


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6,), None), ((6, 1), None), ((6, 4), 1), ((6, 7, 4), 2), ((6, 4, 5, 3), 1), ((6, 1, 5, 3), None)],
)
def test_class_axis(shape, axis):
    outputs = torch.randn(shape)
    assert class_axis(outputs) == axis
    last = classes_last(outputs)
    assert last.numel() == outputs.numel()
    assert last.shape[-1] == (1 if axis is None else shape[axis])
    assert (output_power(outputs) is None) == (axis is not None)
