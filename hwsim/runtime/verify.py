"""Reads an artifact's documents and checks every file against its recorded hash before anything is executed."""

import ctypes
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

from hwsim.errors import UserError

SCHEMA_VERSION = 1
_ARCH_PRCTL, _ASK, _TILE_DATA = 158, 0x1023, 18  # x86-64 Linux: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)


def sha256(path: Path) -> str:
    """Hash of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an artifact, with all files there; `check_hash` says whether they are unchanged."""
    path = directory / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot read ({error.strerror}); name a folder made by hwsim compile"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON; compile the artifact again") from error
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {manifest.get('schema_version')!r}, this hwsim reads 1")
    for name in manifest["files"]:
        if Path(name).name != name:
            raise UserError(f"{path}: file name {name!r} leaves the artifact; compile it again")
        if not (directory / name).is_file():
            raise UserError(f"{directory / name}: missing; compile the artifact again")
    return manifest


def check_hash(manifest: dict[str, Any], file: Path, found: str) -> None:
    """Refuse a file whose content is not what was compiled."""
    if manifest["files"][file.name] != found:
        raise UserError(f"{file}: content does not match the manifest; compile the artifact again")


def check_machine(manifest: dict[str, Any]) -> None:
    """Refuse code that this processor cannot execute: it would die with an illegal instruction."""
    wanted = manifest["machine"]
    if platform.machine() not in wanted["architectures"]:
        raise UserError(
            f"artifact is built for {wanted['name']}, this machine is {platform.machine()}; compile with --isa host"
        )
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return
    found = {
        word for line in text.splitlines() if line.startswith(("flags", "Features")) for word in line.split()
    }
    missing = sorted(set(wanted["features"]) - found)
    if missing:
        raise UserError(
            f"artifact needs the processor features {', '.join(missing)}; compile for this machine with --isa host"
        )


def grants_tiles() -> bool:
    """Ask Linux for the tile registers of AMX, for all threads of the process; whether it gives them."""
    return not ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK, _TILE_DATA)


def ask_for_tiles(manifest: dict[str, Any]) -> None:
    """Where code uses tile registers, they are asked for before it runs."""
    if "amx_tile" in manifest["machine"]["features"] and not grants_tiles():
        raise UserError(
            "this system gives no tile registers (AMX) to programs; compile for this machine with --isa host"
        )
