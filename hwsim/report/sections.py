"""The sections of a report in their order; HTML and Markdown follow this one list."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One heading; ``name`` is its anchor."""

    name: str
    title: str


SECTIONS = (
    Section("verdict", "Verdict"),
    Section("asked", "Asked but not honoured"),
    Section("comparison", "Comparison"),
    Section("layers", "Layers"),
    Section("frontier", "Frontier of latency and error"),
    Section("sensitivity", "Sensitivity of layers to options"),
    Section("roofline", "Roofline"),
    Section("timeline", "Timeline of the units"),
    Section("prediction", "Predicted, simulated, measured"),
    Section("anytime", "Anytime curve over expansion order"),
    Section("memory", "Memory and energy"),
    Section("missing", "Not obtained, not modelled"),
    Section("provenance", "Provenance"),
    Section("reproduce", "How to reproduce"),
)
