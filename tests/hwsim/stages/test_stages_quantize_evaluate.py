"""`hwsim quantize` and `hwsim evaluate` end to end on small networks, by stage and by command line."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from hwsim.cli.evaluate import evaluate as evaluate_command
from hwsim.cli.quantize import quantize as quantize_command
from hwsim.errors import UserError
from hwsim.stages.evaluate import EvaluateRequest, run_evaluate
from hwsim.stages.quantize import QuantizeRequest, SourceRecord, run_quantize
from quant.errors import QuantError
from quant.methods.bias_choice import CANDIDATES
from quant.sensitivity import first_tensor
from tests.shared_data import shared

FACTORY = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    ), (torch.zeros(1, 3, 16, 16),)

class Last(nn.Module):
    def forward(self, x):
        return x[:, 0]

def column():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(392, 1))
    return net, (torch.zeros(1, 3, 16, 16),)

def number():
    return nn.Sequential(*column()[0], Last()), (torch.zeros(1, 3, 16, 16),)

def segments():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3)), (torch.zeros(1, 3, 16, 16),)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("stage")
    (path / "net.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, 3, 16, 16)).astype(np.float32)
    np.savez(path / "calib.npz", x=x[:32])
    np.savez(path / "test.npz", x=x[32:], y=rng.integers(0, 10, 38))
    return path


def request(place, name, **kw):
    given = {"scheme": "w8a8", "calibration_data": str(place / "calib.npz"), **kw}
    return QuantizeRequest(output_dir=place / name, model=f"{place}/net.py:net", **given)


def test_quantized_model_is_measured_against_float(place):
    result = run_quantize(request(place, "q8"))
    assert set(result.model.layers) and result.record.range_source == "calibration"
    assert result.record.calibration["count"] == 32 and not result.record.remarks
    found = run_evaluate(EvaluateRequest(str(place / "q8"), str(place / "test.npz")))
    alone = run_evaluate(EvaluateRequest(f"{place}/net.py:net", str(place / "test.npz"), batch=38))
    assert found.reference == pytest.approx(alone.metrics)
    assert found.data.count == 38 and found.metrics["kl"] < 1e-3 and found.metrics["cosine"] > 0.99


def test_expansion_brings_four_bits_back(place):
    kl = {}
    for text in ("w4a8", "w4a8.o2.g50", "w4a8.o2", "w4a8.o3.e2"):
        run_quantize(request(place, text, scheme=text))
        kl[text] = run_evaluate(EvaluateRequest(str(place / text), str(place / "test.npz"))).metrics["kl"]
    assert kl["w4a8"] > 2 * kl["w4a8.o2"] and kl["w4a8"] > kl["w4a8.o2.g50"]
    assert kl["w4a8.o3.e2"] < 0.5 * kl["w4a8"]


def test_metrics_agree_with_numpy(place):
    """Top-1, loss and KL recomputed from the logits in float64."""
    from hwsim.model.load import load_model
    from quant.qmodel import QuantizedModel

    run_quantize(request(place, "again", scheme="w3a6"))
    found = run_evaluate(EvaluateRequest(str(place / "again"), str(place / "test.npz"), batch=7))
    archive = np.load(place / "test.npz")
    model = load_model(f"{place}/net.py:net", batch=38)
    with torch.no_grad():
        x = torch.from_numpy(archive["x"])
        quantized = QuantizedModel.load(place / "again", model.module).integer()(x)[0].double().numpy()
        floating = model.module(x)[0].double().numpy()
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (floating, quantized))
    assert found.metrics["top1"] == pytest.approx(100 * (quantized.argmax(1) == archive["y"]).mean())
    assert found.metrics["kl"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-5)
    assert found.metrics["nll"] == pytest.approx(-np.log(q[np.arange(38), archive["y"]]).mean(), rel=1e-6)
    order = np.argsort(-quantized, 1)[:, :5]
    assert found.metrics["top5"] == pytest.approx(100 * (order == archive["y"][:, None]).any(1).mean())


def test_same_request_gives_the_same_bytes(place):
    for name in ("one", "two"):
        run_quantize(request(place, name, scheme="w4a8.o2.c50", calibration_data=None, seed=5))
    for name in ("quantized.json", "weights.safetensors", "source.json"):
        assert (place / "one" / name).read_bytes() == (place / "two" / name).read_bytes()
    assert SourceRecord.read(place / "one").remarks == (
        "no calibration data: activation ranges come from synthetic inputs",
    )


def test_plan_decides_each_layer(place):
    from planner.plan import Plan, PlanLayer, Totals
    from planner.request import Request

    result = run_quantize(request(place, "base"))
    names = list(result.model.layers)
    texts = ["w8a8", "w4a8.o2.g50", "w4a8", "fp"]
    zero = {"error": 0.0, "cycles": 1, "energy_pj": 0.0, "bops": 1, "weight_bytes": 1}
    layers = tuple(
        PlanLayer(
            name=name, kind="linear", scheme=text, weight_bits=None, act_bits=None, order=1, kept=(), engine="e",
            option=0,             way="single", recipe=(), act_bytes=1, **zero,
        )
        for name, text in zip(names, texts, strict=True)
    )  # fmt: skip
    plan = Plan(
        model=result.record.model, target="t", tables_sha256="0", request=Request(), status="optimal", proof=(),
        totals=Totals(latency=1.0, activation_bytes=1, **zero), layers=layers, options_before=1, options_after=1,
        options_solver=1,
    )  # fmt: skip
    path = place / "plan.json"
    path.write_text(plan.model_dump_json())
    planned = run_quantize(request(place, "planned", scheme=None, plan=path))
    assert {n: str(layer.scheme) for n, layer in planned.model.layers.items()} == dict(
        zip(names[:3], texts[:3], strict=True)
    )
    path.write_text(plan.model_copy(update={"model": "other"}).model_dump_json())
    with pytest.raises(UserError, match="made for other"):
        run_quantize(request(place, "x", scheme=None, plan=path))
    path.write_text('{"model": 3}')
    with pytest.raises(UserError, match="not a plan"):
        run_quantize(request(place, "x", scheme=None, plan=path))


def test_recipe_is_fitted_and_recorded(place):
    plain = run_quantize(request(place, "rtn", scheme="w3a8"))
    fitted = run_quantize(request(place, "bc", scheme="w3a8+bc"))
    assert fitted.record.recipe == "bc" and fitted.record.referee[0]["item"] == "bc"
    kl = {}
    for result in (plain, fitted):
        found = run_evaluate(EvaluateRequest(str(result.directory), str(place / "test.npz")))
        kl[result.record.recipe] = found.metrics["kl"]
    assert kl["bc"] < kl[""]
    with pytest.raises(UserError, match="all layers take the same"):
        run_quantize_mixed(place)


def test_a_recipe_takes_few_samples(place):
    """One batch of them is split, so that some are held out; a single one is refused."""
    made = run_quantize(request(place, "few", recipe="mse+bc", samples=5))
    assert made.record.calibration["count"] == 4 and [v["item"] for v in made.record.referee] == [
        "mse",
        "bc",
    ]
    x = np.load(place / "calib.npz")["x"]
    for count in (7, 2, 1):
        np.savez(place / "some.npz", x=x[:count])
        given = request(place, f"some{count}", recipe="mse+bc", calibration_data=str(place / "some.npz"))
        if count == 1:
            with pytest.raises(QuantError, match="give more samples"):
                run_quantize(given)
            assert not (place / "some1").exists() or not list((place / "some1").iterdir())
        else:
            assert run_quantize(given).record.calibration["count"] == count // 2 * 2


def test_no_batch_of_copies_is_held_out(place):
    """What is left of the samples behind whole batches is not used: it would be the batch that is held out."""
    made = run_quantize(request(place, "ragged", recipe="mse", calibration_data=str(place / "test.npz")))
    assert made.record.calibration["count"] == 32


def test_composition_end_to_end(place):
    """Quantized by three methods, saved, loaded and measured: nearer to float than the scheme alone."""
    plain = run_quantize(request(place, "w3", scheme="w3a8"))
    made = run_quantize(request(place, "composed", scheme="w3a8", recipe="repquant+pipe+bc"))
    verdicts = made.record.referee
    assert [verdict["item"] for verdict in verdicts] == ["repquant", "pipe", "bc"]
    assert all(set(verdict) == {"item", "before", "after", "kept", "reason"} for verdict in verdicts)
    dropped = [verdict["item"] for verdict in verdicts if not verdict["kept"]]
    assert bool(dropped) == any("dropped by the held-out referee" in remark for remark in made.record.remarks)
    assert SourceRecord.read(place / "composed").referee == verdicts
    measured = [
        run_evaluate(EvaluateRequest(str(result.directory), str(place / "test.npz"))).metrics["kl"]
        for result in (made, plain)
    ]
    assert measured[0] < 0.3 * measured[1]


def test_an_item_whose_prerequisite_was_dropped_is_told_in_the_remarks(place, monkeypatch):
    from quant import pipeline

    answers = iter(torch.full((4,), value, dtype=torch.float64) for value in (1.0, 0.9, 2.0))
    monkeypatch.setattr(pipeline, "divergences", lambda *_: next(answers))
    made = run_quantize(request(place, "lacking", recipe="mse+gptq+asymmetric"))
    assert [(verdict["item"], verdict["kept"]) for verdict in made.record.referee] == [
        ("mse", True),
        ("gptq", False),
        ("asymmetric", False),
    ]
    told = "dropped by the held-out referee: gptq, asymmetric (needs gptq, which was dropped)"
    assert told in made.record.remarks


@pytest.mark.parametrize("recipe", [None, "mse+bc", "pd"])
@pytest.mark.parametrize("net", ["number", "column", "segments"])
def test_outputs_without_classes_on_the_last_axis(place, net, recipe):
    """One number is measured by its squared error, a map pixel by pixel over its classes."""
    if recipe == "pd":
        recipe = str(place / "short.yaml")
        (place / "short.yaml").write_text("steps: [mse, pd]\npd: {iterations: 20}\n")
    name, found = f"{net}-{len(recipe or '')}", {}
    for scheme in ("w2a8", "w8a8"):
        asked = replace(request(place, name, scheme=scheme, recipe=recipe), model=f"{place}/net.py:{net}")
        made = run_quantize(asked)
        assert all(0 < v["before"] < 100 for v in made.record.referee)
        evaluated = run_evaluate(EvaluateRequest(str(made.directory), str(place / "calib.npz")))
        found[scheme] = evaluated.metrics
    inputs = torch.from_numpy(np.load(place / "calib.npz")["x"])
    with torch.no_grad():
        exact, ours = (
            torch.cat([first_tensor(run(x)) for x in inputs.split(8)]).double()
            for run in (made.source.module, made.model.integer())
        )
    if net == "segments":
        p, q = exact.softmax(1), ours.softmax(1)
        expected = float((p * (p.log() - q.log())).sum(1).mean())
        assert found["w8a8"]["kl"] == pytest.approx(expected, rel=1e-3)
        assert found["w8a8"]["kl"] < 0.1 * found["w2a8"]["kl"]
    else:
        assert set(found["w8a8"]) == {"relative_squared_error"}
        expected = float((ours - exact).square().sum() / exact.square().sum())
        assert found["w8a8"]["relative_squared_error"] == pytest.approx(expected, rel=1e-3)
        assert found["w8a8"]["relative_squared_error"] < found["w2a8"]["relative_squared_error"]


def test_recipe_file_with_settings(place):
    path = place / "recipe.yaml"
    path.write_text("steps: [bc, pipe]\npipe:\n  order: 3\nbc: {shrinkage: none}\n")
    made = run_quantize(request(place, "yaml", scheme="w3a8", recipe=str(path)))
    assert made.record.recipe == "pipe+bc"
    chosen = made.record.recipe_settings["bc"]  # the kind of bias that was chosen is written down
    assert (chosen["path"], chosen["gain"]) in CANDIDATES
    assert made.record.recipe_settings == {"pipe": {"order": 3}, "bc": {"shrinkage": "none"} | chosen}
    assert chosen["shrinkage"] == "none"
    assert [verdict["item"] for verdict in made.record.referee] == ["pipe", "bc"]
    assert {layer.scheme.order for layer in made.model.layers.values()} == {3}
    for text, message in (
        ("steps: bc", "list of step names"),
        ("- bc", "key steps"),
        ("a: [", "not a readable"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            run_quantize(request(place, "x", recipe=str(path)))


def test_pd_uses_the_batch_norms_and_leaves_no_checkpoint(place):
    path = place / "pd.yaml"
    path.write_text("steps: [mse, pd]\npd: {iterations: 2}\n")
    seen = []
    made = run_quantize(request(place, "pd", scheme="w3a8", recipe=str(path)), lambda *at: seen.append(at))
    assert [verdict["item"] for verdict in made.record.referee] == ["mse", "pd"]
    assert {phase for phase, _, _ in seen} == {"calibrating", "PD-Quant"}
    shares = [share for phase, _, share in seen if phase == "PD-Quant"]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert not list(place.glob("pd/*.part"))


def run_quantize_mixed(place):
    from hwsim.stages.quantize import _recipe
    from quant.scheme import Scheme

    return _recipe(request(place, "x"), {"a": Scheme.parse("w4a8+bc"), "b": Scheme.parse("w4a8+gptq")})


def test_column_moments_rank_the_columns(place):
    """Inputs of very different size: keeping the columns that carry the energy beats the plain norm."""
    from quant.observe import observe_moments, observe_ranges
    from quant.qmodel import quantize
    from quant.scheme import Scheme

    torch.manual_seed(0)
    size = torch.ones(64)
    size[:8] = 30.0
    module = torch.nn.Sequential(torch.nn.Linear(64, 32))
    x = torch.randn(256, 64) * size
    graph = torch.export.export(module, (x,)).module()
    (node,) = [n for n in graph.graph.nodes if n.target is torch.ops.aten.linear.default]
    node.meta["layer"] = "fc"
    scheme = {"fc": Scheme.parse("w3a12.o2.c25")}
    moments = observe_moments(graph, ["fc"], [(x,)])
    assert torch.allclose(moments["fc"], x.square().mean(0), rtol=1e-4)
    ranges = observe_ranges(graph, scheme, [(x,)])
    error = []
    for given in (moments, None):
        out = quantize(graph, scheme, ranges=ranges, moments=given).integer()(x)
        out = out[0] if isinstance(out, tuple) else out
        error.append(float((out - module(x)).detach().norm()))
    assert error[0] < 0.7 * error[1]


def test_mistakes(place):
    with pytest.raises(UserError, match="either --plan"):
        run_quantize(request(place, "x", scheme=None))
    (place / "empty").mkdir(exist_ok=True)
    with pytest.raises(UserError, match="not a directory that hwsim quantize wrote"):
        run_evaluate(EvaluateRequest(str(place / "empty"), str(place / "test.npz")))
    run_quantize(request(place, "bad"))
    (place / "bad" / "quantized.json").write_text("{}")
    with pytest.raises(UserError, match=r"not the one source\.json describes"):
        run_evaluate(EvaluateRequest(str(place / "bad"), str(place / "test.npz")))
    np.savez(place / "labels.npz", x=np.zeros((2, 3, 16, 16), np.float32), y=np.array([3, 77]))
    with pytest.raises(UserError, match="up to 77 do not fit"):
        run_evaluate(EvaluateRequest(f"{place}/net.py:net", str(place / "labels.npz")))


LABELLED = np.arange(8) % 10


@pytest.mark.parametrize(
    "labels, message",
    [(LABELLED - 1, "from -1 up to 6 do not fit"), (np.eye(10, dtype=int)[LABELLED], "look one-hot")],
)
def test_labels_that_name_no_class_are_refused(place, labels, message):
    np.savez(place / "odd.npz", x=np.zeros((8, 3, 16, 16), np.float32), y=labels)
    with pytest.raises(UserError, match=message):
        run_evaluate(EvaluateRequest(f"{place}/net.py:net", str(place / "odd.npz")))


def test_labels_in_a_column_are_labels_and_their_lack_is_told(place):
    x = np.random.default_rng(1).normal(size=(8, 3, 16, 16)).astype(np.float32)
    found = []
    for name, more in (("row", {"y": LABELLED}), ("column", {"y": LABELLED[:, None]}), ("none", {})):
        np.savez(place / f"{name}.npz", x=x, **more)
        found.append(run_evaluate(EvaluateRequest(f"{place}/net.py:net", str(place / f"{name}.npz"))))
    assert found[0].metrics == found[1].metrics and not found[0].remarks
    assert "top1" not in found[2].metrics and "no labels" in found[2].remarks[0]


def test_command_line(place):
    app = typer.Typer()
    app.command("quantize")(quantize_command)
    app.command("evaluate")(evaluate_command)
    runner = CliRunner()
    model = ["--model", f"{place}/net.py:net", "--calibration-data", str(place / "calib.npz")]
    made = runner.invoke(app, ["quantize", "--scheme", "w4a8.o2", *model, "-o", str(place / "cli"), "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["schemes"] == {"w4a8.o2": 4}
    data = ["--data", str(place / "test.npz"), "--limit", "20"]
    measured = runner.invoke(app, ["evaluate", str(place / "cli"), *data, "--json"])
    assert measured.exit_code == 0, measured.output
    document = json.loads(measured.stdout)
    assert document["data"]["count"] == 20 and document["metrics"]["kl"] >= 0
    shown = runner.invoke(app, ["evaluate", str(place / "cli"), *data])
    assert shown.exit_code == 0 and "top-1" in shown.stdout and "float" in shown.stdout


def test_language_model_keeps_its_perplexity(tmp_path):
    """Trained stories260k: W8A8 loses next to nothing; perplexity of the float model as published."""
    config, weights = (
        shared("data/models/stories260k_config.json"),
        shared("data/models/stories260k.safetensors"),
    )
    stories = shared("data/text/tinystories_a_tok512.npz")
    spec = f"hf:{config}"
    run_quantize(
        QuantizeRequest(
            tmp_path / "q", scheme="w8a8", model=spec, weights=weights, calibration_data=str(stories), samples=2,
            sequence=128,
        )
    )  # fmt: skip
    found = run_evaluate(EvaluateRequest(str(tmp_path / "q"), str(stories), limit=4))
    assert found.reference is not None
    assert 3.0 < found.reference["perplexity"] < 5.0
    assert math.isclose(found.metrics["perplexity"], found.reference["perplexity"], rel_tol=0.05)
