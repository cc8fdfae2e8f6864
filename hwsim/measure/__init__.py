"""Measures a machine with our own compiled kernels: calibration of a descriptor, and predicted against measured."""
