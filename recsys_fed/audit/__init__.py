"""Attacks on a training pipeline: empirical lower bounds of epsilon, conformance of the mechanism, and attacks."""
