"""Atomic writes: a file is there whole, or not at all; and files that must be there to be read."""

import contextlib
import os
import tempfile
from pathlib import Path

from hwsim.errors import UserError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file, fsync and rename."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: cannot write ({reason}); choose another directory with --output-dir"
        ) from error


def check_writable(directory: Path) -> None:
    """Fail before the work, not after it; a run that fails later must not leave an empty directory."""
    if directory.exists() and not directory.is_dir():
        raise UserError(
            f"{directory}: cannot write (it is a file); choose another directory with --output-dir"
        )
    absent = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    probe = directory / ".hwsim-write-test"
    write_text(probe, "")
    probe.unlink(missing_ok=True)
    for folder in absent:
        folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def existing_data(spec: str, flag: str) -> None:
    """Check before anything is loaded that samples are there: a file, a folder, or the file of ``FILE.py:FUNCTION``."""
    name = spec.partition(".py:")[0] + ".py" if ".py:" in spec else spec
    if not Path(name).exists():
        raise UserError(f"{flag} {spec}: no such file or folder")


def plan_file(path: Path, flag: str) -> Path:
    """The plan that the user named by itself or by the directory it was written to."""
    inside = path / "plan.json"
    return existing_file(inside if inside.is_file() else path, flag)


def existing_file(path: Path, flag: str) -> Path:
    """``path`` if it is a readable file; else a one-line mistake that names the flag."""
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a directory; give a file")
    if not path.exists():
        raise UserError(f"{flag} {path}: no such file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{flag} {path}: cannot be read; check its permissions")
    return path
