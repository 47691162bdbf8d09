"""A headless Chromium that shows a page as a phone or a desktop would."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]  # fmt: skip


def find() -> tuple[str, str] | None:
    """Return the paths of the browser and its driver, or None unless both are installed."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


def install() -> str | None:
    """Install Debian's Chromium and return None, or the reason why that failed."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return "no chromium and chromedriver are installed, and only root can install them with apt-get"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "chromium-driver"]):
        try:
            done = subprocess.run(
                ["apt-get", "-q", *words], env=environment, capture_output=True, text=True, timeout=400
            )
        except subprocess.TimeoutExpired:
            return f"apt-get {words[0]} did not end within 400 s"
        if done.returncode:
            return f"apt-get {words[0]} failed: {' '.join(done.stderr.split())[-300:]}"
    return None if find() else "apt-get installed no chromium and chromedriver"


@contextmanager
def started(profile: Path) -> Iterator[webdriver.Chrome]:
    """Start a browser without network access and quit it at the end of the block."""
    browser, driver = find() or ("", "")
    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, Service(driver))
    try:
        chrome.execute_cdp_cmd("Network.enable", {})
        chrome.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
        )
        yield chrome
    finally:
        chrome.quit()


def look(chrome: webdriver.Chrome, page: Path, width: int, scheme: str) -> None:
    """Open the page with all its images in a window of this width (CSS pixels) and scheme ("light" or "dark")."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    chrome.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    chrome.get(page.resolve().as_uri())
    chrome.execute_async_script(
        "Promise.all([...document.images].map(image => image.decode().catch(() => 0))).then(arguments[0])"
    )
