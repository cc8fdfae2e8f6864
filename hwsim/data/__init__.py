"""Calibration and evaluation data: images, arrays, text, or the user's own function; nothing is unpickled."""
