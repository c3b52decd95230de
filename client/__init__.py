"""The Flower ClientApp of one silo: what it releases is computed in `recsys_fed.federation.release`."""
