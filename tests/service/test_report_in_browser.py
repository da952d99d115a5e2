"""The report of a real run in a real browser: it shows its content offline and fits a phone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.reports.test_comparison import make_facts
from xmas_job.reports.comparison import build_comparison
from xmas_job.reports.comparison_page import render

pytestmark = pytest.mark.service

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def chromium(tmp_path: Path, *arguments: str) -> str:
    browser = shutil.which("chromium")
    assert browser is not None, "install Debian's chromium"
    command = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture(scope="module")
def report() -> Path:
    """The page of the last run under XMAS_REPORTS."""
    pages = sorted(Path(os.environ["XMAS_REPORTS"]).glob("*/report/index.html"))
    assert pages, "no run has written a report"
    return pages[-1]


def test_page_shows_the_verdict_and_every_stage(report: Path, tmp_path: Path) -> None:
    page = chromium(tmp_path, "--dump-dom", report.as_uri())
    assert "random" in page
    for stage in ("ingest", "train_proxy", "extract", "cluster", "publish:subset", "evaluate:random.0/0"):
        assert stage in page
    assert page.count("<svg") >= 3
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("width", [390, 1280])
def test_page_is_no_wider_than_the_window(report: Path, tmp_path: Path, width: int) -> None:
    assert width_of(report, tmp_path, width) <= width


@pytest.mark.parametrize("width", [390, 1280])
def test_page_of_a_comparison_is_no_wider_than_the_window(tmp_path: Path, width: int) -> None:
    page = tmp_path / "index.html"
    page.write_text(render(build_comparison(make_facts())))
    assert width_of(page, tmp_path, width) <= width


def width_of(report: Path, tmp_path: Path, width: int) -> int:
    """A frame of the window's width reports the page's own width through its title."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" style="width:{width}px;height:800px;border:0" srcdoc=""></iframe>'
        "<script>const f=document.getElementById('f');f.onload=()=>{document.title="
        "'width='+f.contentDocument.documentElement.scrollWidth};"
        f"f.src='{report.as_uri()}';f.removeAttribute('srcdoc')</script>"
    )
    page = chromium(
        tmp_path, "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri()
    )
    return int(page.split("<title>width=")[1].split("<")[0])
