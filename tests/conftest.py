"""A check that cannot be made here is named at the end of the run; with QUANT101_CHECK_ALL=1 it is a failure.

With it the properties also take the same cases every time, so that a change is judged by what it does and not by chance;
all other runs, those of the night among them, look for new ones. QUANT101_EXAMPLES says how many they take, where a test does not.
"""

import importlib.util
import os
import re
import shutil

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is not a mistake
settings.load_profile("unhurried")
if os.environ.get("QUANT101_CHECK_ALL") == "1":
    settings.register_profile("repeatable", settings(), derandomize=True, database=None)
    settings.load_profile("repeatable")
if examples := os.environ.get("QUANT101_EXAMPLES"):  # for an emulated processor, which is slow
    settings.register_profile("few", settings(), max_examples=int(examples))
    settings.load_profile("few")


def pytest_configure(config):
    config.addinivalue_line("markers", "needs(name): an importable module, or 'browser', without which the test cannot run")


def is_here(name):
    if name == "browser":
        return find_browser() is not None
    if name == "java":
        return shutil.which("java") is not None
    return importlib.util.find_spec(name) is not None


def find_browser():
    "How to start a Chromium in Playwright's terms, or None where there is none."
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
    folders = ("/Applications/Google Chrome.app/Contents/MacOS", r"C:\Program Files\Google\Chrome\Application",
               r"C:\Program Files (x86)\Microsoft\Edge\Application")
    search = os.pathsep.join([os.environ.get("PATH", ""), *folders])
    return next((path for name in (*names, "Google Chrome") if (path := shutil.which(name, path=search))), None)


def pytest_runtest_setup(item):
    for mark in item.iter_markers("needs"):
        name = mark.args[0]
        if not is_here(name):
            if os.environ.get("QUANT101_CHECK_ALL") == "1":
                pytest.fail(f"{name} is not installed, and QUANT101_CHECK_ALL=1 asks for every check", pytrace=False)
            pytest.skip(f"not checked: {name} is not installed")


def pytest_terminal_summary(terminalreporter):
    missing = {}
    for report in terminalreporter.getreports("skipped"):  # whichever process ran the test
        if match := re.search(r"not checked: (\w+) is not installed", str(report.longrepr)):
            missing.setdefault(match[1], []).append(report.nodeid)
    for name, tests in missing.items():
        terminalreporter.section(f"NOT CHECKED: {name} is not installed", sep="!")
        for test in tests:
            terminalreporter.line(test)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield chromium
        chromium.close()
