"""Methods of the accuracy table by name: the recipe of each, and the lines the table has to show."""

from dataclasses import dataclass

from quant.recipe import Recipe

PLAIN = "plain"
_PAPER_STEPS = ["percentile", "reparam", "clip", "logsoftmax", "gptq"]
_PAPER_SETTINGS = {"logsoftmax": {"zero": "extended"}}
RECIPES = {
    "min-max": "rtn",
    PLAIN: "mse",
    "BC (paper)": {"steps": ["mse", "bc"], "bc": {"shrinkage": "none", "path": "float", "axes": "position"}},
    "BC": "mse+bc",
    "GPTQ": "mse+gptq",
    "PIPE": "mse+pipe",
    "RepQ-ViT (paper)": {"steps": ["repqvit"], "logsoftmax": {"zero": "extended"}},
    "RepQuant (paper)": {"steps": _PAPER_STEPS, **_PAPER_SETTINGS},
    "RepQuant": "repquant+logsoftmax",
    "QDrop": {"steps": ["mse", "pd"], "pd": {"preset": "qdrop"}},
    "PD-Quant (paper losses)": {"steps": ["mse", "pd"], "pd": {"preset": "paper", "iterations": 300}},
    "PD-Quant": "mse+pd",
    "GPTQ+BC": "mse+gptq+bc",
    "PIPE+GPTQ+BC": "mse+gptq+pipe+bc",
    "RepQuant+BC": "repquant+logsoftmax+bc",
    "RepQuant+PIPE+BC": "repquant+logsoftmax+pipe+bc",
    "RepQuant (paper)+BC": {"steps": [*_PAPER_STEPS, "bc"], **_PAPER_SETTINGS},
    "PD-Quant+BC": "mse+pd+bc",
    "PD-Quant+PIPE+BC": "mse+pipe+pd+bc",
}
NOTES = {
    "min-max": "round to nearest on min-max ranges",
    PLAIN: "round to nearest on least-squares ranges: the layer-wise baseline",
    "PIPE": "expansion of order 2 on the baseline: twice the weight bits of every other single method",
    "PD-Quant (paper losses)": "the authors' rates and sum of losses at the fast preset's 300 iterations",
    "QDrop": "PD-Quant's base: same iterations, no polish on the prediction difference, no correction",
    "PD-Quant": "the fast preset: QDrop's units, then scales and biases polished on the prediction difference",
}
SINGLE = {
    "vit": ["BC (paper)", "BC", "GPTQ", "RepQ-ViT (paper)", "RepQuant (paper)", "RepQuant", "PIPE"],
    "cnn": ["BC (paper)", "BC", "GPTQ", "PIPE", "QDrop", "PD-Quant"],
}
COMPOSED = {
    "vit": ["GPTQ+BC", "RepQuant+BC", "RepQuant (paper)+BC", "RepQuant+PIPE+BC"],
    "cnn": ["GPTQ+BC", "PD-Quant+BC", "PIPE+GPTQ+BC", "PD-Quant+PIPE+BC"],
}
SCHEMES = ["w4a4", "w2a4", "w2a2", "w4a8", "w3a4", "w8a8", "w6a6", "w4", "w3", "w2"]
DOUBLED = "PIPE"
"""Methods with this in their name spend twice the weight bits; they are compared among themselves."""


@dataclass(frozen=True)
class Claim:
    """One line the table has to show: ``better`` exceeds ``base`` by at least ``points``."""

    network: str
    scheme: str
    better: str
    base: str
    points: float = 0.0


CLAIMS = [
    Claim("vit_tiny", "w4a4", "RepQuant", PLAIN, 20.0),
    Claim("vit_tiny", "w4a4", "BC", PLAIN),
    Claim("vit_tiny", "w4a4", "BC", "BC (paper)"),
    Claim("vit_tiny", "w4a4", "RepQuant+BC", "RepQuant"),
    Claim("cifar10_resnet20", "w4a4", "BC", PLAIN),
    Claim("cifar10_resnet20", "w2a4", "PD-Quant", "QDrop"),
    Claim("cifar10_resnet20", "w2a2", "PD-Quant", "QDrop"),
    Claim("cifar10_resnet20", "w2a4", "PD-Quant+BC", "PD-Quant"),
    Claim("mobilenetv2", "w4a4", "PD-Quant", "QDrop"),
]


def recipe_of(method: str) -> Recipe:
    """The recipe of a method of the table."""
    return Recipe.parse(RECIPES[method])
