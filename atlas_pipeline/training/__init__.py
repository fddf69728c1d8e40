"""Fitting the forecaster: loop, precision, schedule, checkpoints, hardware; and the scores of its densities."""
