"""The operators' page in a real browser: it connects, shows the state, and recommends with titles, at two widths."""

import shutil
import subprocess

import httpx
import pytest
from service_process import ServiceProcess
from serving_kit import add_version, made_release

from recsys_fed.serving.paths import ServicePaths, TokenFile

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="needs a headless chromium (Debian package chromium)")
@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.soak)])
def test_the_page_shows_state_and_recommends(tmp_path, width):
    place = ServicePaths(folder=tmp_path / "service")
    place.key()
    name = add_version(place.folder, made_release())
    token = TokenFile(place.tokens).create("operator", ["admin", "recommend", "feedback"])
    service = ServiceProcess(place.folder).start()
    try:
        service.wait_until_ready()
        body = {"user": "visitor", "item": "i3", "kind": "buy"}
        httpx.post(f"{service.url}/v1/feedback", json=body, headers={"Authorization": f"Bearer {token}"})
        picture = tmp_path / "page.png"
        command = [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1200", "--virtual-time-budget=8000",
        ]  # fmt: skip
        url = f"{service.url}/#token={token}&user=visitor"
        page = subprocess.run(
            [*command, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True
        ).stdout
        subprocess.run([*command, f"--screenshot={picture}", url], capture_output=True, timeout=120, check=True)
    finally:
        service.stop()
    assert ">serving</span>" in page
    assert name in page and "user-only" in page and "a sentence" in page
    assert "from history" in page and page.count("Title number") == 10
    assert "Title number 3<" not in page
    assert token not in page
    assert picture.read_bytes().startswith(b"\x89PNG")
