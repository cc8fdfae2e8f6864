"""Published weights through the hub; when it is out of reach, say so in one line and go on."""

import logging

from torch import nn

from hwsim.errors import UserError
from hwsim.model import hub
from hwsim.model.sources import ModelSource
from hwsim.model.weights import WeightsInfo, load_file, sha256_of_file

log = logging.getLogger(__name__)


def load_pretrained(source: ModelSource, module: nn.Module) -> WeightsInfo | None:
    """Fill a module with the weights its name stands for; None when they cannot be had."""
    repository = _repository(source, module)
    path = None if repository is None else hub.fetch(repository, hub.WEIGHT_FILE)
    if repository is None or path is None:
        log.warning(
            "%s: no pretrained weights (%s); using seeded random ones, accuracy-like figures are illustrative",
            source.resolved,
            "the hub is out of reach" if repository else "none are published under this name",
        )
        return None
    try:
        load_file(module, path)
    except UserError as error:
        log.warning("%s: %s", repository, error)
        return None
    return WeightsInfo("pretrained", repository, sha256_of_file(path))


def _repository(source: ModelSource, module: nn.Module) -> str | None:
    if source.source == "hf":
        return None if source.name.endswith(".json") or source.arguments else source.name
    config = getattr(module, "pretrained_cfg", None) or {}
    name = config.get("hf_hub_id")
    return str(name) if name else None
