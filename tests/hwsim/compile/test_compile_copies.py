"""The copies of the layer graph are those of the compiled program, no more and no fewer."""

import pytest

from hwsim.compile.isa import named_isa
from hwsim.compile.lower import lower
from hwsim.model.load import load_model

FAMILIES = (
    "timm:swin_tiny_patch4_window7_224[embed_dim=24,img_size=112]",
    "timm:deit_tiny_patch16_224[depth=1,img_size=64]",
    "tests/small_models.py:transformer",
)


@pytest.mark.parametrize("spec", FAMILIES)
def test_each_copy_is_a_kernel_and_each_kernel_that_only_moves_is_a_copy(spec):
    model = load_model(spec)
    layers = {layer.name: layer for layer in model.graph.layers}
    copies = {name for name, layer in layers.items() if layer.op == "copy"}
    program = lower(model.module, named_isa("x86-avx2"))
    for step in program.steps:
        if step.layer in copies:
            copies.discard(step.layer)
            assert step.buffers[-1].elements == layers[step.layer].elements
        elif step.layer not in layers and not step.layer.startswith("output"):
            assert len(step.buffers) > 2, f"{step.layer} only moves its input, but is no layer of the graph"
    assert not copies
