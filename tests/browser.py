"""A headless Chromium for tests of pages, spoken to over its debugging pipe: no driver, no port, no network."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MISSING = os.name == "nt" or FOUND is None
REASON = "no Chromium or Chrome is installed (or this is Windows, where it is not spoken to over a pipe)"
START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)  # the browser reads commands from 3 and writes answers to 4
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One window. `failures` holds what the page shown last wrote to its console as an error, or failed to load."""

    def __init__(self, profile: Path):
        to_browser, commands = os.pipe()
        answers, from_browser = os.pipe()
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(to_browser), str(from_browser), FOUND, *words, "--remote-debugging-pipe"]
            + [f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.commands, self.answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self.count, self.session, self.failures = 0, None, []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def close(self):
        """End the browser."""
        self.session = None
        self.commands.write(b'{"id":0,"method":"Browser.close"}\0')
        self.commands.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.answers.close()

    def ask(self, method, **parameters):
        """The answer to a command of the DevTools protocol."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while (answer := self.read()).get("id") != self.count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def read(self):
        """The next message; an error of the page is kept."""
        buffer = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            buffer += byte
        message = json.loads(buffer)
        told = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.failures.append(told["exceptionDetails"].get("exception", told["exceptionDetails"]))
        if message.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.failures.append(told["entry"])
        return message

    def open(self, page: Path, *, width=1440, height=900, dark=False, address=""):
        """Show a page in a window of this size and colour scheme."""
        self.failures = []
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url="about:blank")  # another address of the same file would not be loaded anew
        self.ask("Page.navigate", url=page.as_uri() + address)
        self.run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")
        self.settle()

    def run(self, script):
        """What the expression is worth, once settled if it is a promise."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def settle(self):
        """Let the page draw: a frame, what its observers do, and a frame again."""
        frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"
        self.run(frame)

    def press(self, key):
        """A key goes down and up where the focus is."""
        codes = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "Enter": 13, "Tab": 9}
        for kind in ("rawKeyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])
        self.settle()
