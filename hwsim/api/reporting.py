"""``report``: render reports again and put plans side by side; and devices as objects."""

from pathlib import Path
from typing import TYPE_CHECKING

from hwsim.api import given
from hwsim.api.boundary import one_root

if TYPE_CHECKING:
    from hwsim.api.given import PlanLike
    from hwsim.stages.report import ReportResult
    from hwsim.target.schema import Target


@one_root
def report(*plans: "PlanLike", compare: bool = False, output: str | Path | None = None) -> "ReportResult":
    """Render the reports of plans again, or compare several: which device, which plan?

    Args:
        plans: Results of ``hwsim.plan``, or the directories that they wrote.
        compare: Side by side.
        output: A ``.html``, ``.md`` or ``.json`` file; without it, each report is rendered beside its plan.
    """
    from hwsim.stages.report import run_report

    named = [plan if isinstance(plan, str | Path) else plan.directory for plan in plans]
    return run_report(named, compare=compare, output=given.path(output))


@one_root
def load_target(name_or_path: str | Path) -> "Target":
    """A device descriptor: one that ships, or a YAML file; ``replace`` of the result asks what if."""
    from hwsim.target.load import load_target as load

    return load(name_or_path)
