"""Flower's own commands and processes, as every part of this project that starts some starts them."""
