"""Real weights and labelled images: the loaded graphs reach the measured float accuracy of the shared models."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwsim.model.load import load_model
from tests.shared_data import shared

NETS = Path(__file__).with_name("nets.py")


def _imagenet(count, batch):
    """The first images of the validation subset: centre crop 224, mean and std one half."""
    images, labels = [], []
    with zipfile.ZipFile(shared("data/images/imagenet_val_a650.zip")) as archive:
        rows = archive.read("labels.csv").decode().split()[1:]
        for row in rows[:: len(rows) // count][:count]:
            name, label = row.rsplit(",", 1)
            image = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"), np.float32)
            top, left = ((size - 224) // 2 for size in image.shape[:2])
            images.append(image[top : top + 224, left : left + 224].transpose(2, 0, 1) / 255)
            labels.append(int(label))
    pixels = (torch.from_numpy(np.stack(images)) - 0.5) / 0.5
    return pixels.split(batch), torch.tensor(labels)


def _run(loaded, batches):
    with torch.no_grad():
        return torch.cat([loaded.module(batch)[0] for batch in batches])


@pytest.mark.parametrize(
    ("spec", "file", "architecture", "options"),
    [
        ("vit_t", "vit_tiny_patch16_224", "vit_tiny_patch16_224", {}),
        (
            "timm:mobilenetv2_100[pad_type=same]",
            "mobilenetv2_100_tfslim",
            "mobilenetv2_100",
            {"pad_type": "same"},
        ),
    ],
)
def test_image_networks_reproduce_logits_and_accuracy(spec, file, architecture, options):
    import timm
    from safetensors.torch import load_file

    path = shared(f"data/models/{file}.safetensors")
    batches, labels = _imagenet(40, 8)
    loaded = load_model(spec, weights=path, batch=8)
    assert loaded.weights.kind == "file"
    assert loaded.weights.source == path.name
    assert not loaded.illustrative
    logits = _run(loaded, batches)
    eager = timm.create_model(architecture, **options).eval()
    eager.load_state_dict(load_file(path))
    with torch.no_grad():
        expected = eager(batches[0])
    assert torch.allclose(logits[:8], expected, atol=2e-4 * expected.abs().max().item())
    # Measured on all 650 images: 82.8 % and 80.2 %; 40 images leave a standard error of 6 points.
    assert (logits.argmax(1) == labels).float().mean().item() > 0.65


@pytest.mark.parametrize(
    ("spec", "file", "mean", "std", "accuracy"),
    [
        ("cifar_resnet[depth=20]", "cifar10_resnet20", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.9148),
        ("cifar_resnet[depth=32]", "cifar10_resnet32", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.9232),
        ("cifar_vit", "cifar10_vit", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), 0.7330),
    ],
)
def test_cifar_networks_from_a_factory_reach_their_accuracy(spec, file, mean, std, accuracy):
    weights = shared(f"data/models/{file}.safetensors")
    data = np.load(shared("data/images/cifar10_test_a5000.npz"))
    pixels, labels = data["x"][::10], torch.from_numpy(data["y"][::10])
    images = (
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - torch.tensor(mean).view(3, 1, 1)
    ) / (torch.tensor(std).view(3, 1, 1))
    loaded = load_model(f"{NETS}:{spec}", weights=weights, batch=100)
    found = (_run(loaded, images.split(100)).argmax(1) == labels).float().mean().item()
    assert found == pytest.approx(accuracy, abs=0.04)  # 500 of the 5000 images


def test_stories260k_reads_english():
    """Logits are those of transformers, and the loss is that of a trained network."""
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config, weights = (
        shared("data/models/stories260k_config.json"),
        shared("data/models/stories260k.safetensors"),
    )
    data = np.load(shared("data/text/tinystories_a_tok512.npz"))
    stories = [data["ids"][start : start + 129].astype(np.int64) for start in data["offsets"][:6]]
    tokens = torch.from_numpy(np.stack(stories))
    loaded = load_model(f"hf:{config}", weights=weights, sequence=128, batch=6)
    logits = loaded.module(tokens[:, :-1])[0]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    eager = LlamaForCausalLM(LlamaConfig(**json.loads(config.read_text()))).eval()
    eager.load_state_dict(load_file(weights), strict=False)
    with torch.no_grad():
        expected = eager(tokens[:, :-1]).logits
    assert torch.allclose(logits, expected, atol=1e-3)
    assert 1.0 < loss < 1.7  # 1.46 over all stories; an untrained network has log(512) = 6.2
    assert "lm_head" in {name for names in loaded.graph.tied_weights().values() for name in names}
