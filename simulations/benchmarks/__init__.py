"""`make bench`: ratios measured in one process or in alternating processes."""
