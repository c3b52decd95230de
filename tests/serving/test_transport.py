"""TLS by files; the child ends with its parent; a port that is taken is said so."""

import datetime
import os
import ssl
import time

import httpx
import pytest
from command_line import run_command
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from service_process import ServiceProcess
from serving_kit import add_version, made_release

from recsys_fed.serving.paths import ServicePaths


def certificate(folder):
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(*private))
    return paths


def made_folder(folder):
    ServicePaths(folder=folder).key()
    add_version(folder, made_release())
    return folder


def test_tls_answers_and_plain_text_does_not(tmp_path):
    folder = made_folder(tmp_path / "service")
    cert, key = certificate(tmp_path)
    settings = tmp_path / "serving.toml"
    settings.write_text(f'[api]\ntls-certificate = "{cert}"\ntls-key = "{key}"\n')
    service = ServiceProcess(folder, "--settings", settings).start()
    try:
        trusted = ssl.create_default_context(cafile=str(cert))
        transport = httpx.HTTPTransport(retries=5, verify=trusted)
        with httpx.Client(transport=transport, timeout=30.0) as client:
            assert client.get(f"https://127.0.0.1:{service.port}/ready").json()["status"] == "ready"
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{service.port}/ready", timeout=5.0)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"https://127.0.0.1:{service.port}/ready", timeout=5.0)  # nobody vouches for it
        code, _, err = run_command("silo", "api", "--state", folder, "--port", service.port)
        assert code == 2 and "Choose another port" in err
        worker = service.worker()
        service.kill_all()
        deadline = time.monotonic() + 30.0
        while os.path.exists(f"/proc/{worker}/cmdline") and open(f"/proc/{worker}/stat").read().split()[2] != "Z":  # noqa: PTH110, PTH123, SIM115
            assert time.monotonic() < deadline, "the child outlived its parent"
            time.sleep(0.05)
    finally:
        service.stop()


def test_the_first_start_needs_a_model(tmp_path):
    service = ServiceProcess(tmp_path / "empty")
    code, _, err = run_command("silo", "api", "--state", service.folder, "--port", 0, "--model", tmp_path / "nowhere")
    assert code == 2 and "nowhere" in err
