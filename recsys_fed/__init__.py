"""Federated, differentially private recommendation: only item embeddings are aggregated.

Where to begin: `recsys_fed.simulation.runner.simulate` runs a whole federation on one machine,
`recsys_fed.models.users` recommends from a released model, `recsys_fed.privacy` calibrates and accounts.
"""

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.errors import RecsysFedError

__all__ = ["FederationConfig", "RecsysFedError", "SimulationConfig"]
