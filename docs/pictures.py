"""Pictures of a run for the README: the leaderboard in a terminal of 80 columns, and the page in a browser.

    python docs/pictures.py results/runs/NAME        writes docs/terminal.png and docs/page.png

Needs the extra `dev` and Chromium; nothing is fetched. Run anew after a change to what they show.
"""

import argparse
import contextlib
import html
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.ansi import AnsiDecoder
from rich.console import Console

FOLDER = Path(__file__).parent
COLUMNS = 80
LINES = 34
"""Of the leaderboard that are shown; the notes under it are long."""
PAGE = (1280, 1500)
"""Width and height of the page's picture [CSS pixels]."""
STYLE = "body{margin:0;background:#11151c}pre{margin:18px;font:15px/1.35 'DejaVu Sans Mono',monospace;color:#d7dde6}"


def terminal(run: str) -> str:
    """The leaderboard as HTML, in the colours of a terminal."""
    command = [sys.executable, "-m", "nas.leaderboard", run, "--top", "6"]
    colours = {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "PATH": ""}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=colours).stdout
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in AnsiDecoder().decode("\n".join(printed.splitlines()[:LINES])):
        console.print(line)
    shown = console.export_html(inline_styles=True, code_format="{code}")
    prompt = html.escape(f"$ python -m nas.leaderboard {Path(run).name}")
    return f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><pre><b>{prompt}</b>\n{shown}</pre>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        scratch = Path(folder)
        (scratch / "terminal.html").write_text(terminal(parsed.run), "utf-8")
        command = [sys.executable, "-m", "nas.report", parsed.run, "--out", str(scratch / "page.html")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        browser = playwright.chromium.launch(executable_path=parsed.chromium, args=["--no-sandbox"])
        with contextlib.closing(browser):
            page = browser.new_page(viewport={"width": 780, "height": 400}, device_scale_factor=1.25)
            page.goto((scratch / "terminal.html").as_uri())
            page.screenshot(path=FOLDER / "terminal.png", full_page=True)
            page = browser.new_page(viewport={"width": PAGE[0], "height": PAGE[1]})
            page.goto((scratch / "page.html").as_uri())
            page.wait_for_timeout(1000)
            page.screenshot(path=FOLDER / "page.png")


if __name__ == "__main__":
    main()
