"""What a silo signs at the end of a run, and how anybody checks all of it together."""
