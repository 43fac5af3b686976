"""Pictures of the report: a recorded run's page, as a desktop and a phone show it.

    python -m experiments.benchmarks.figures.screenshots --out experiments/results \
        --run experiments/results/cifar10-jpeg-search

Needs Playwright and a Chromium on the path.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

from tune_resnet.results.page import write_report

# Without them Chromium asks the network for things of its own; it has no sandbox where its user is root.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Plots in what is folded are drawn when it is opened.
DRAWN = """[...document.querySelectorAll('.plot')].every(
  plot => plot.closest('details:not([open])') || plot.querySelector('svg'))"""
SCREENS = {"desktop": (1100, 1150), "phone": (380, 1150)}  # pixels, width and height


def start_chromium(playwright: Playwright) -> Browser | None:
    """The system's browser; None where there is none."""
    path = shutil.which("chromium")
    return playwright.chromium.launch(executable_path=path, args=FLAGS) if path else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = write_report([options.run], Path(folder) / "report.html").absolute()
        browser = start_chromium(playwright)
        if browser is None:
            sys.exit("error: there is no chromium")
        for name, (width, height) in SCREENS.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(file.as_uri())
            page.wait_for_function(DRAWN)
            page.screenshot(path=options.out / f"report-{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
