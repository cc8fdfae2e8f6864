"""Open data by what it is: a folder or zip of images, an .npz, a text, or a Python function."""

from pathlib import Path

from hwsim.data.dataset import Dataset, InputForm
from hwsim.errors import UserError
from hwsim.files import existing_data

TEXT_SUFFIXES = {".txt", ".text", ".md"}


def open_data(
    spec: str, form: InputForm, *, limit: int | None = None, tokenizer: Path | None = None
) -> Dataset:
    """The data behind `--data` or `--calibration-data`, at most `limit` samples of it.

    Args:
        spec: Folder, .zip, .npz, .txt, or FILE.py:FUNCTION.
        form: What the model takes.
        limit: Use at most this many samples.
        tokenizer: For text: tokenizer.json or its folder.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: use at least 1 sample")
    path = Path(spec)
    if tokenizer is not None and path.suffix not in TEXT_SUFFIXES:
        raise UserError(f"--tokenizer: data {spec} are no text ({', '.join(sorted(TEXT_SUFFIXES))}); drop it")
    if ".py:" in spec:
        from hwsim.data.callback import open_callback

        return open_callback(spec, form, limit)
    existing_data(spec, "data")
    if path.is_dir() or path.suffix == ".zip":
        from hwsim.data.images import open_images

        return open_images(path, form, limit)
    if path.suffix == ".npz":
        from hwsim.data.arrays import open_arrays

        return open_arrays(path, form, limit)
    if path.suffix in TEXT_SUFFIXES:
        from hwsim.data.text import open_text

        return open_text(path, form, limit, tokenizer)
    raise UserError(f"data {spec}: pass a folder or .zip of images, an .npz, a .txt, or FILE.py:FUNCTION")
