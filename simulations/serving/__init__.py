"""Measurements of the silo's service: load over HTTP, replay of real data in time order, exploration, breadth."""
