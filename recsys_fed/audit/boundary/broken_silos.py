"""Silos that answer as they should not: three mistakes that a lying server turns into what users have.

They are classes of the ClientApp's own silos, so they exist once the apps are loaded.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from recsys_fed.federation.messages import Request, Update
from recsys_fed.federation.plan import derive_plan
from recsys_fed.federation.release import OnFailure, raise_it
from recsys_fed.simulation.apps import load_apps

if TYPE_CHECKING:
    from client.state import SimulatedSilo


def broken_silos() -> "dict[str, type[SimulatedSilo]]":
    """The broken copies by name."""
    load_apps()
    from client.state import SimulatedSilo  # noqa: PLC0415  (there once the apps are loaded)

    class Unvalidated(SimulatedSilo):
        """Any request is answered, whatever it asks for."""

        def check_request(self, request: Request) -> None:
            """Accept it."""

    class ComputesBeforeCharging(SimulatedSilo):
        """What fails is not charged, and says so."""

        def release(self, request: Request, *, run: str, on_failure: OnFailure) -> Update:
            """Look at the users first."""
            self.check_request(request)
            self.users()
            return super().release(request, run=run, on_failure=raise_it)

    class AnyGrid(SimulatedSilo):
        """The grid and the unit of the sum are the server's to choose."""

        def check_request(self, request: Request) -> None:
            """Check all but these two."""
            planned = derive_plan(self.config, self.catalogue, with_features=self._server_has_features()).requests
            if request.round < len(planned):
                known = planned[request.round]
                request = replace(request, grid_step=known.grid_step, l2_clip_norm=known.l2_clip_norm)
            super().check_request(request)

    return {
        "validation off": Unvalidated,
        "charge after computing": ComputesBeforeCharging,
        "unbounded grid": AnyGrid,
    }
