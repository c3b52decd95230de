"""A real SuperLink over TLS with node authentication: who is not admitted is refused."""

from deployment_kit import deployed
from real_federation import RealFederation
from refused_peers import activated, refused_meanwhile

from recsys_fed.flower import free_port


def test_only_admitted_keys_over_tls_of_the_federations_authority_get_in(tmp_path):
    there = deployed(tmp_path / "federation", port=free_port())
    federation = RealFederation(there, tmp_path / "logs")
    try:
        federation.start_server()
        refused_meanwhile(federation, tmp_path)
        # The same question under an admitted key is answered.
        assert activated(there.silos[0], there.federation.settings().address) == 200
    finally:
        federation.stop()
