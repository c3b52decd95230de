"""Federated, differentially private recommendation: only item embeddings are aggregated.

Where to begin: `recsys_fed.simulation.runner.simulate` runs a whole federation on one machine,
`recsys_fed.models.users` recommends from a released model, `recsys_fed.privacy` calibrates and accounts.
"""

import os

# Threads of torch that wait for one another sleep instead of spinning; it must be said before torch is loaded.
# Beside other busy processes a run takes a tenth of the time, alone it takes the same.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from recsys_fed.config import FederationConfig, SimulationConfig
from recsys_fed.errors import RecsysFedError

__all__ = ["FederationConfig", "RecsysFedError", "SimulationConfig"]
