"""The results page: measured anew by `python -m simulations.results`, never edited by hand."""
