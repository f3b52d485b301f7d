# SPDX-License-Identifier: Apache-2.0
"""A browser for tests, driven by WebDriver's HTTP requests. Needs chromium and chromium-driver."""
import base64
import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

# How long to wait for anything that has to happen. Reaching it is a failure.
PATIENCE = 60


class Failure(Exception):
    pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, condition):
    """Waits until the condition gives something true, and returns that."""
    end = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < end:
        last = condition()
        if last:
            return last
        time.sleep(0.05)
    raise Failure(f"waited in vain: {what}; the last answer was {last!r}")


class Browser:
    """One window. `with Browser(...) as browser:` ends the browser too."""

    def __init__(self, width=1280, height=900, dark=False, scale=1):
        self.port = free_port()
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={self.port}", "--log-level=SEVERE"], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        self.session = None
        self.width, self.height = width, height
        options = {
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                f"--window-size={width},{height}", f"--force-device-scale-factor={scale}", "--mute-audio",
                "--ignore-certificate-errors",
            ]
        }
        try:
            wait_for("chromedriver", self._is_ready)
            answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}})
            self.session = "/session/" + answer["sessionId"]
            self.set_window(width, height, scale, narrow=width < 600)
            self.set_dark(dark)
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        if self.session:
            with contextlib.suppress(Exception):
                self._ask("DELETE", self.session)
        self.driver.terminate()
        try:
            self.driver.wait(10)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.driver.wait()

    def _is_ready(self):
        try:
            return self._ask("GET", "/status")["ready"]
        except (urllib.error.URLError, ConnectionError):
            return False

    def _ask(self, method, path, body=None):
        data = None if body is None and method != "POST" else json.dumps(body or {}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise Failure(json.load(error)["value"]["message"].split("\n")[0]) from None

    # What a test does

    def devtools(self, command, **parameters):
        return self._ask("POST", self.session + "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def set_window(self, width, height, scale, narrow):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                      mobile=narrow)

    def set_dark(self, dark):
        self.devtools("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, address):
        self._ask("POST", self.session + "/url", {"url": address})

    def run(self, script, *arguments):
        """Runs the body of a function in the page and returns what it returns."""
        return self._ask("POST", self.session + "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, identifier):
        return self.run("return document.getElementById(arguments[0])?.textContent", identifier)

    def type(self, identifier, text):
        self.run("""const node = document.getElementById(arguments[0]); node.value = arguments[1];
            node.dispatchEvent(new Event("input", { bubbles: true }))""", identifier, text)

    def messages(self):
        """What the browser has complained about, such as violations of the policy."""
        entries = self._ask("POST", self.session + "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path, height=None):
        if height:
            self.set_window(self.width, height, 1, narrow=self.width < 600)
            time.sleep(0.5)
        with open(path, "wb") as file:
            file.write(base64.b64decode(self._ask("GET", self.session + "/screenshot")))
