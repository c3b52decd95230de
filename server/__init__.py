"""The Flower ServerApp: it moves messages; what it computes is in `recsys_fed.federation.schedule`."""
