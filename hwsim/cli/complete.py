"""What the tab key offers for models and devices: the short names; the shell adds files."""


def targets(incomplete: str) -> list[str]:
    """Devices that ship and begin like this."""
    from hwsim.target.load import list_targets

    return [name for name in list_targets() if name.startswith(incomplete)]


def models(incomplete: str) -> list[tuple[str, str]]:
    """Models with a short name that begin like this, and what each stands for."""
    from hwsim.model.sources import SHORT_NAMES

    return [(name, full) for name, full in SHORT_NAMES.items() if name.startswith(incomplete)]
