"""Accuracy beside NNCF and AIMET on the same real networks, calibration and evaluation images, in one run.

    pip install nncf aimet-torch          # into an environment that has hwsim
    python benchmarks/accuracy/peers.py [--networks NETWORK ...] [--schemes w8a8 w4a8 w4a4] [--seed 0]

NNCF quantizes to 8 bits (mixed preset, its settings for transformers where the network is one, its bias
correction). AIMET gets the batch norms folded, per-channel weights, its default range search, then its sequential MSE
or its AdaRound, and is asked to quantize what hwsim quantizes: inputs and weights of every product, first and last
layer at 8 bits. In its own default places (every operator's output) it is listed too. Prepared models whose float
answers differ are refused.
Finished rows are kept in reports/accuracy/peers.jsonl and not made again.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import datasets
from cells import Store
from report import write_table
from subjects import SUBJECTS, Recipe, Subject

from hwsim.model.build import build
from hwsim.model.sources import parse_source
from hwsim.model.torchvision_shim import declare_missing_operators
from hwsim.model.weights import load_file
from quant.pipeline import PolishContext, run_recipe, uniform_assignment
from quant.recipe import Recipe as Steps
from quant.scheme import Scheme

Forward = Callable[[Tensor], Tensor]
PAGE = Path("reports/accuracy/peers.md")
STORE = PAGE.with_suffix(".jsonl")
OURS = {"vit": ["mse", "mse+bc", "repquant+logsoftmax+bc"], "cnn": ["mse", "mse+bc", "mse+gptq+bc"]}
ADAROUND_ITERATIONS = 200


def eager(recipe: Recipe) -> nn.Module:
    """The network as an ordinary module, attention written out so that its products can be seen."""
    built = build(parse_source(recipe.spec), "cpu", recipe.batch, None)
    if recipe.weights is not None:
        load_file(built.module, datasets.SHARED / "models" / recipe.weights)
    for part in built.module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    return built.module.eval()


def hwsim_forms(subject: Subject, scheme: Scheme, seed: int) -> Iterator[tuple[str, Callable[[], Forward]]]:
    """Our recipes, from rounding to the composition for the family."""
    for text in OURS[subject.recipe.family]:

        def make(text: str = text) -> Forward:
            assignment = uniform_assignment(subject.products(scheme), scheme, first_last_bits=8)
            polish = PolishContext(subject.batch_norms)
            made = run_recipe(
                subject.module, assignment, subject.calibration(seed), Steps.parse(text), polish=polish
            )
            return lambda images: made.calibrated.logits((images,))

        yield f"hwsim {text}", make


def nncf_forms(subject: Subject, scheme: Scheme, seed: int) -> Iterator[tuple[str, Callable[[], Forward]]]:
    """Post-training quantization of NNCF; 8 bits is what it offers."""
    if (scheme.weight_bits, scheme.act_bits) != (8, 8):
        return
    import nncf

    transformer = nncf.ModelType.TRANSFORMER if subject.recipe.family == "vit" else None

    def make() -> Forward:
        batches = subject.calibration(seed)
        data = nncf.Dataset(batches, lambda batch: batch[0])
        return nncf.quantize(
            eager(subject.recipe), data, subset_size=len(batches), model_type=transformer,
            preset=nncf.QuantizationPreset.MIXED,
        )  # fmt: skip

    yield f"NNCF {nncf.__version__}", make


def aimet_forms(subject: Subject, scheme: Scheme, seed: int) -> Iterator[tuple[str, Callable[[], Forward]]]:
    """AIMET in its own places, then in ours with each of its ways to choose weights."""
    import aimet_torch

    name = f"AIMET {aimet_torch.__version__}"
    yield f"{name}, its places", lambda: aimet(subject, scheme, seed, "", own_places=True)
    for method in ("", "sequential MSE", "AdaRound"):
        label = f"{name}, {method or 'rounding'}"
        yield label, lambda method=method: aimet(subject, scheme, seed, method)


def aimet(subject: Subject, scheme: Scheme, seed: int, method: str, own_places: bool = False) -> Forward:
    """A simulation with encodings from the calibration batches."""
    import aimet_torch.common.quantsim_config as configs
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.common.defs import QuantScheme
    from aimet_torch.model_preparer import prepare_model
    from aimet_torch.quantsim import QuantizationSimModel
    from aimet_torch.seq_mse import apply_seq_mse

    config = str(Path(configs.__file__).parent / "default_config_per_channel.json")
    batches = subject.calibration(seed)
    images = [batch[0] for batch in batches]
    model = prepare_model(eager(subject.recipe))
    fold_all_batch_norms(model, input_shapes=tuple(images[0].shape))
    with torch.no_grad():
        if not torch.allclose(model(subject.batches[0][0]), subject.exact[: len(images[0])], atol=1e-2):
            raise RuntimeError(f"{subject.recipe.name}: AIMET's prepared model answers differently")
    with tempfile.TemporaryDirectory() as place:
        if method == "AdaRound":
            first, last = ends(model)
            asked = AdaroundParameters(images, len(images), ADAROUND_ITERATIONS, forward_fn=lambda m, x: m(x))
            model = Adaround.apply_adaround(
                model, images[0], asked, place, "weights", default_param_bw=scheme.weight_bits,
                param_bw_override_list=[(first, 8), (last, 8)], default_config_file=config,
            )  # fmt: skip
        sim = QuantizationSimModel(
            model, images[0], QuantScheme.post_training_tf_enhanced, default_output_bw=scheme.act_bits,
            default_param_bw=scheme.weight_bits, config_file=config,
        )  # fmt: skip
        (move_to_inputs if not own_places else widen_ends)(sim, scheme)
        if method == "AdaRound":
            sim.set_and_freeze_param_encodings(str(Path(place) / "weights.encodings"))
        if method == "sequential MSE":
            apply_seq_mse(sim, images)
    with torch.no_grad():
        sim.compute_encodings(lambda m: [m(x) for x in images])
    return sim.model


def ends(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """First and last layer with weights."""
    weighted = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    return weighted[0], weighted[-1]


def widen_ends(sim, scheme: Scheme) -> None:
    """First and last layer at 8 bits, as in all other rows."""
    for part in ends(sim.model):
        for quantizer in [*part.input_quantizers, *part.param_quantizers.values()]:
            if quantizer is not None:
                quantizer.bitwidth = 8


def move_to_inputs(sim, scheme: Scheme) -> None:
    """Quantizers at both inputs of every product and nowhere else; one grid a tensor, asymmetric."""
    parts = [part for _, part in sim.named_qmodules()]
    template = next(
        q for part in parts for q in [*part.input_quantizers, *part.output_quantizers] if q is not None
    )
    first, last = ends(sim.model)
    for part in parts:
        product = isinstance(part, nn.Conv2d | nn.Linear) or "matmul" in type(part).__name__.lower()
        part.output_quantizers = nn.ModuleList([None] * len(part.output_quantizers))
        quantizers: list[nn.Module | None] = [None] * len(part.input_quantizers)
        if product:
            quantizers = [copy.deepcopy(template) for _ in quantizers]
            for quantizer in quantizers:
                quantizer.bitwidth = 8 if part in (first, last) else scheme.act_bits
        part.input_quantizers = nn.ModuleList(quantizers)
        if not product:
            part.param_quantizers = nn.ModuleDict(dict.fromkeys(part.param_quantizers))
    for part in (first, last):
        part.param_quantizers["weight"].bitwidth = 8


TOOLS = {"hwsim": hwsim_forms, "nncf": nncf_forms, "aimet": aimet_forms}


def main() -> None:
    """Every tool on every network and scheme; the page is rewritten after each row."""
    parser = argparse.ArgumentParser(description="accuracy beside NNCF and AIMET")
    parser.add_argument("--networks", nargs="+", default=list(SUBJECTS), choices=SUBJECTS)
    parser.add_argument("--schemes", nargs="+", default=["w8a8", "w4a8", "w4a4"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    args = parser.parse_args()
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")
    torch.set_num_threads(args.threads)
    declare_missing_operators()
    for network in args.networks:
        with tempfile.TemporaryDirectory() as place:
            subject = SUBJECTS[network].load(Store(Path(place) / "cells.jsonl"))
        reference = (subject.exact.argmax(-1) == subject.labels).double()
        for text in args.schemes:
            for tool in args.tools:
                for name, make in TOOLS[tool](subject, Scheme.parse(text), args.seed):
                    if [network, text, name] in [row[:3] for row in stored()]:
                        continue
                    row = [network, text, name, *measured(subject, reference, make)]
                    print(*row, sep="  ", flush=True)
                    with STORE.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(row) + "\n")
                    write(args)
    write(args)


def stored() -> list[list[str]]:
    """Rows so far."""
    return [json.loads(line) for line in STORE.read_text("utf-8").splitlines()] if STORE.exists() else []


def measured(subject: Subject, reference: Tensor, make: Callable[[], Forward]) -> list[str]:
    """Top-1, paired difference to float with its error, divergence, seconds."""
    start = time.perf_counter()
    forward = make()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        logits = torch.cat([forward(batch[0]) for batch in subject.batches])
    right = (logits.argmax(-1) == subject.labels).double()
    change = 100 * (right - reference).numpy()
    error = float(np.std(change) / np.sqrt(len(change)))
    divergence = datasets.kl_to_float(subject.exact, logits)
    top = 100 * float(right.mean())
    return [f"{top:.1f}", f"{change.mean():+.1f} ± {error:.1f}", f"{divergence:.4f}", f"{seconds:.0f}"]


def write(args: argparse.Namespace) -> None:
    """The page: networks and schemes in their order, the closest to float first."""
    order = {name: place for place, name in enumerate(SUBJECTS)}
    rows = sorted(stored(), key=lambda row: (order[row[0]], [-ord(c) for c in row[1]], float(row[5])))
    write_table(
        PAGE,
        "Accuracy beside NNCF and AIMET",
        [
            "Command: `python benchmarks/accuracy/peers.py`; two-core x86-64 with AVX-512 VNNI; "
            f"calibration images of seed {args.seed}, the same evaluation images for all; first and last layer at 8 "
            "bits. Seconds are upper bounds: other work ran beside.",
            "NNCF offers no fewer than 8 bits for activations. AIMET stands once with quantizers in its own default "
            "places (every operator's output) and else where hwsim has them (inputs of products); AdaRound ran "
            f"{ADAROUND_ITERATIONS} iterations a layer (its default, 15,000, takes hours here). Rows of a network and "
            "scheme stand by their divergence.",
        ],
        ["network", "scheme", "tool", "top-1 %", "against float", "KL to float", "seconds"],
        rows,
    )


if __name__ == "__main__":
    main()
