"""Quality at a budget: measured anew by `python -m simulations.quality`, never edited by hand."""
