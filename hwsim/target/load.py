"""Find and read descriptors: by short name from those that ship, or by path.

Errors list every mistake, one a line, with file, line and column, so that all can be mended in one go.
"""

import os
import stat
from pathlib import Path

from pydantic import ValidationError

from hwsim.errors import UserError
from hwsim.target import messages
from hwsim.target.checks import did_you_mean
from hwsim.target.schema import Target
from hwsim.target.yaml_reader import MAX_BYTES, YamlError, read_yaml

_SUFFIXES = (".yaml", ".yml")


def descriptor_folder() -> Path:
    """Where the descriptors that ship lie: in the wheel beside this file, in a checkout in ``targets/``."""
    packaged = Path(__file__).resolve().parent / "descriptors"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "targets"


def list_targets() -> list[str]:
    """Short names of the descriptors that ship, sorted."""
    return sorted(path.stem for path in descriptor_folder().glob("*.yaml"))


def load_target(name_or_path: str | os.PathLike[str]) -> Target:
    """Read a descriptor by short name (``edge_gpu``), file name (``edge_gpu.yaml``) or path.

    A file of that path comes first; then the descriptors that ship. Raises ``UserError`` with one line for
    each mistake.
    """
    asked = os.fspath(name_or_path)
    if "\0" in asked or not asked.strip():
        raise UserError(f"target {asked!r}: give a name or the path of a YAML file")
    path = Path(asked).expanduser()
    if _looks_like_path(asked, path):
        return parse_target(read_text(path, asked), asked)
    shipped = descriptor_folder() / f"{path.stem if path.suffix in _SUFFIXES else path.name}.yaml"
    if shipped.is_file():
        return parse_target(read_text(shipped, shipped.name), shipped.name)
    known = list_targets()
    near = did_you_mean(path.stem, known)
    listed = f"known targets: {', '.join(known)} (or the path of a .yaml file)"
    raise UserError(f"unknown target {asked!r}{near or ';'} {listed}")


def _looks_like_path(asked: str, path: Path) -> bool:
    """A path that exists, or one whose spelling can be nothing else."""
    if path.suffix in _SUFFIXES or os.sep in asked:
        return path.exists() or len(path.parts) > 1
    return path.is_file()


def read_text(path: Path, shown: str) -> str:
    """The text of a descriptor file; everything that is no readable text of sane size is a ``UserError``."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{shown}: is a directory; give the path of a YAML file")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{shown}: is no regular file; give the path of a YAML file")
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{shown}: cannot read ({error.strerror or error})") from error
    if len(raw) > MAX_BYTES:
        raise UserError(f"{shown}: larger than {MAX_BYTES >> 10} KiB; this is no descriptor")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        message = f"is no UTF-8 text (byte 0x{raw[error.start]:02x})"
        raise UserError(messages.line(shown, (row, column), (), message)) from error


def parse_target(text: str, source: str) -> Target:
    """Read a descriptor from text; ``source`` names it in the errors."""
    try:
        read = read_yaml(text)
    except YamlError as error:
        raise UserError(messages.line(source, error.position, error.path, error.message)) from error
    if read.data is None:
        raise UserError(messages.line(source, (1, 1), (), "is empty; see `hwsim target schema`"))
    found = [(problem.position, problem.path, problem.message) for problem in read.problems]
    try:
        target = Target.model_validate(read.data)
    except ValidationError as error:
        found += messages.explain(error, read)
    else:
        if not found:
            return target
    found.sort(key=lambda one: one[0])
    raise UserError("\n".join(messages.line(source, *one) for one in found))
