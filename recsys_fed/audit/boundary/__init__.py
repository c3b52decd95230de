"""What leaves a silo beyond its mechanism: answers of another kind, and histories that one user's rows change."""
