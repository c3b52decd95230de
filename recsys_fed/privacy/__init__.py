"""Clipping, noise, events, accounting and calibration: what the guarantee rests on."""
