"""The HTML report in a real browser: every plot is painted, on a desktop, on a phone and in the dark, and nothing is wider than the phone.

It looks at pixels, because a plot can be in the page and yet not be seen. Needs Chromium: scripts/ci_system_packages.sh installs it.
"""

import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest
from bench_results import RESULTS

from cls_runtime.bench.drawings import COLORS
from cls_runtime.bench.html_report import html_report
from cls_runtime.bench.peer_sides import PeerSide
from cls_runtime.bench.peers import PeerComparison
from cls_runtime.bench.plots import PLOTS

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
PHONE, DESKTOP = (390, 760), (1280, 3600)
PAINTED = 40  # pixels of a side's colour that a plot has at the least, on a phone; thin lines have few

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: scripts/ci_system_packages.sh installs it where apt-get can"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    sides = (
        PeerSide(name="cls-export:onnxruntime:int8", versions={}, seconds=(1.0,), texts_per_second=100.0),
        PeerSide(name="fastembed:int8", versions={}, seconds=(2.0,), texts_per_second=50.0),
    )
    peers = PeerComparison(texts=100, mean_tokens=25.0, threads=2, reference=sides[0].name, sides=sides, ratios=())
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_text(html_report(dataclasses.replace(RESULTS, peers=peers)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browse(report):
    def browse(*options, only=None):
        """The page, or no section of it but `only`."""
        path = report
        if only is not None:
            path = report.with_name(f"{only}.html")
            hidden = f"<style>section:not(#{only}), header, .headlines, .contents {{ display: none }}</style></head>"
            path.write_text(report.read_text(encoding="utf-8").replace("</head>", hidden), encoding="utf-8")
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={report.parent / 'profile'}", *options, path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return browse


@pytest.fixture(scope="module")
def screenshot(browse, tmp_path_factory):
    from matplotlib.image import imread

    folder = tmp_path_factory.mktemp("screenshots")

    def screenshot(size, *options, only=None):
        path = folder / f"{len(list(folder.iterdir()))}.png"
        browse(f"--screenshot={path}", f"--window-size={size[0]},{size[1]}", *options, only=only)
        pixels = (imread(path)[..., :3] * 255).round().astype(int)
        assert pixels.shape[:2] == (size[1], size[0])
        return pixels

    return screenshot


def painted(pixels, color):
    """How many pixels are of a colour, or nearly."""
    wanted = np.array([int(color[index : index + 2], 16) for index in (1, 3, 5)])
    return int((np.abs(pixels - wanted).max(-1) <= 12).sum())


def test_the_page_as_the_browser_reads_it_has_every_plot(browse):
    page = browse("--dump-dom")
    assert len(re.findall(r"<svg\b", page)) == len(PLOTS)
    assert len(re.findall(r"<tr\b", page)) > 20


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.key)
def test_every_plot_is_painted_on_a_phone(plot, screenshot):
    pixels = screenshot(PHONE, only=plot.key)
    assert (np.ptp(pixels, axis=-1) > 60).sum() > 300  # text and lines are grey
    if plot.key != "parity":  # its bars are translucent and lie over each other
        colors = {"peers": COLORS[:1], "serving": COLORS[1:2]}.get(plot.key, COLORS[:2])
        assert all(painted(pixels, color) >= PAINTED for color in colors)


def test_nothing_is_wider_than_a_phone(screenshot):
    pixels = screenshot((PHONE[0], 9000))
    page = pixels[0, 0]
    assert (pixels[:, -4:] == page).all()
    assert (pixels[:, :4] == page).all()
    assert (pixels != page).any(-1).mean() > 0.3


def test_a_desktop_shows_the_same_and_the_dark_is_dark(screenshot):
    light, dark = screenshot(DESKTOP), screenshot(DESKTOP, "--blink-settings=preferredColorScheme=0")
    for pixels in (light, dark):
        assert all(painted(pixels, color) > 2000 for color in COLORS[:2])
    assert light.mean() > 200 > 90 > dark.mean()


def test_in_print_every_table_and_plot_is_on_paper(browse, tmp_path):
    path = tmp_path / "report.pdf"
    browse(f"--print-to-pdf={path}", "--no-pdf-header-footer")
    data = path.read_bytes()
    assert data.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", data)) >= 3
