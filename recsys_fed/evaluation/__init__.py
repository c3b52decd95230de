"""How good a ranking is: metrics, the protocols that produce them, and the baselines to beat."""
