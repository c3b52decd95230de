"""A page in Debian's chromium, headless, driven over a pipe: what it says on its console, and how it is laid out."""

import base64
import json
import os
import shutil
import subprocess
from contextlib import contextmanager

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_LAYOUT = """JSON.stringify({
  width: innerWidth,
  scroll: document.documentElement.scrollWidth,
  wide: [...document.querySelectorAll("body *")].filter(node => !node.closest(".scroll, svg")
    && node.getBoundingClientRect().right > innerWidth + 1).map(node => node.outerHTML.slice(0, 80)),
  charts: [...document.querySelectorAll("figure svg")].map(svg => {
    const box = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect());
    return {width: box.width, height: box.height, shapes: svg.querySelectorAll("path, use").length,
      cut: texts.filter(text => text.right > box.right + 2 || text.left < box.left - 2).length};
  }),
  colours: [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color],
})"""


class Tab:
    """One page over the DevTools protocol."""

    def __init__(self, to_browser, from_browser):
        self._to, self._from, self._number, self._session = to_browser, from_browser, 0, None
        self.complaints = []

    def call(self, method, **params):
        """Send a command and wait for its answer; events on the way are looked at."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def attach(self):
        """Open a tab of its own."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def show(self, path, *, width, dark=False, screenshot=None):
        """Load a file at this width and return its layout."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        ready = "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
        self.call("Runtime.evaluate", expression=ready, awaitPromise=True)
        layout = json.loads(self.call("Runtime.evaluate", expression=_LAYOUT)["result"]["value"])
        if screenshot is not None:
            picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
            screenshot.write_bytes(base64.b64decode(picture["data"]))
        return layout

    def _read(self):
        content = bytearray()
        while not content.endswith(b"\0"):
            content += os.read(self._from, 1)
        message = json.loads(content[:-1])
        if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
            self.complaints.append(message["params"])
        if message.get("method") == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.complaints.append(url)
        return message


@contextmanager
def chromium(folder):
    """A browser with one tab; it ends with the block."""
    to_browser, from_browser = os.pipe(), os.pipe()
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]

    def hand_over():
        os.dup2(to_browser[0], 3)
        os.dup2(from_browser[1], 4)

    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, preexec_fn=hand_over, close_fds=False, **silent)  # noqa: PLW1509
    try:
        tab = Tab(to_browser[1], from_browser[0])
        tab.attach()
        yield tab
    finally:
        process.kill()
        process.wait()
        for end in (*to_browser, *from_browser):
            os.close(end)
