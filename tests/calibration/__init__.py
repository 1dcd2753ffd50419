"""Simulations of what the verdicts promise: errors, power, coverage. `make calibrate` writes docs/calibration.*."""
