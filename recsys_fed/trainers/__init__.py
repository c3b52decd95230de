"""Trainers: each is one algorithm, its half in the silo and its half on the server."""
