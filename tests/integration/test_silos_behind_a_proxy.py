"""Silos that reach the federation through a proxy only: real processes, TLS through the tunnel."""

import pytest
from deployment_kit import CONFIG, deployed
from proxy import tunnelling_proxy
from real_federation import RealFederation

from recsys_fed.flower import free_port


@pytest.mark.soak
def test_a_training_goes_through_the_proxy(tmp_path, monkeypatch):
    # Nothing knows this name but the proxy.
    there = deployed(tmp_path / "federation", config=CONFIG, host="fed.invalid", port=free_port())
    federation = RealFederation(there, tmp_path / "logs")
    with tunnelling_proxy() as (port, heads):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        try:
            federation.start_all()
            federation.command("federation", "publish", there.federation.path)
            found = federation.command("silo", "update", there.silos[0], "--agree")
            assert found.returncode == 0, found.stdout + found.stderr
            found = federation.command("silo", "check", there.silos[0])
            assert found.returncode == 0, found.stdout
            federation.finish(federation.train())
        finally:
            federation.stop()
    assert all(head.startswith("CONNECT fed.invalid:") for head in heads)
    assert len(heads) > len(there.silos)
