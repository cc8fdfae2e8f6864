"""Errors of the quantization floor: one line that says what is wrong and how to mend it."""


class QuantError(ValueError):
    """A request to `quant` that cannot be honoured."""
