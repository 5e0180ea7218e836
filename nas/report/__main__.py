"""The command line: `python -m nas.report [RUN]` writes the page, `--serve` shows it live."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nas.leaderboard import RESULTS, find_run
from nas.progress import drop_output, one_line, size
from nas.report.page import render
from nas.report.server import HOST, PORT, Server
from nas.report.snapshot import snapshot, unreadable
from nas.standings import read
from nas.store import Store, StoreError, write_file

NAME = "report.html"
"""The page's name in the run's folder, unless told otherwise."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        self.exit(2, f"nas.report: {one_line(message)}; --help lists what is allowed\n")


def _port(text: str) -> int:
    if not text.isdecimal() or not int(text) < 65536:
        raise argparse.ArgumentTypeError(f"'{text}' is no port; give a number from 0 (any that is free) to 65535")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m nas.report", description="Show a run on one page.")
    add = parser.add_argument
    add("run", nargs="?", metavar="RUN", help="folder or name of a run (default: the latest)")
    add("--out", type=Path, metavar="FILE", help=f"where to write the page (default: {NAME} in the run's folder)")
    add("--serve", action="store_true", help=f"show the run live on {HOST} instead, read only, until Ctrl-C")
    add("--port", type=_port, metavar="N", default=PORT, help=f"where to serve; 0 takes a free one ({PORT})")
    add("--results", type=Path, metavar="DIR", default=RESULTS, help=f"where runs are ({RESULTS})")
    add("--debug", action="store_true", help="show where an error came from")
    return parser


def look(folder: Path) -> Mapping[str, Any]:
    """Read a run and make its snapshot.

    Raises:
      StoreError: the run cannot be read.
    """
    with contextlib.closing(Store(folder)) as store:
        return snapshot(read(store))


def write_page(folder: Path, out: Path) -> str | None:
    """Write a run's page; one that cannot be read, of an older version say, gets a page that says why.

    Returns:
      None, or why the run cannot be read.
    Raises:
      StoreError: neither its tables nor its configuration can be read, or the page cannot be written.
    """
    try:
        made, trouble = look(folder), None
    except StoreError as error:
        made, trouble = unreadable(_configuration(folder, error), str(error)), str(error)
    try:
        if out.is_dir():
            raise StoreError(f"'{out}' is a folder; give --out the name of a file")
        write_file(out, render(made).encode())
    except OSError as error:
        raise StoreError(f"'{out}' cannot be written ({error.strerror}); give --out a place that can") from error
    return trouble


def _configuration(folder: Path, cause: StoreError) -> dict[str, Any]:
    try:
        config = json.loads((folder / "run.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise cause from None
    return config if isinstance(config, dict) else {}


def serve(folder: Path, port: int, say: Callable[[str], None]) -> None:
    """Show a run until Ctrl-C.

    Raises:
      StoreError: the run cannot be read, or the port cannot be had.
    """
    look(folder)
    try:
        server = Server(folder, lambda: look(folder), port)
    except OSError as error:
        text = f"port {port} of {HOST} cannot be used ({error.strerror}); give another with --port, 0 for a free one"
        raise StoreError(text) from error
    with server:
        say(f"{folder} is shown at {server.url}, read only; Ctrl-C ends it")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error."""
    parsed = _parser().parse_args(arguments)
    try:
        folder = find_run(parsed.run, parsed.results)
        if parsed.serve:
            serve(folder, parsed.port, lambda text: print(text, flush=True))
            return 0
        out = parsed.out or folder / NAME
        trouble = write_page(folder, out)
        print(f"{out} ({size(out.stat().st_size)})", flush=True)
    except StoreError as error:
        if parsed.debug:
            raise
        trouble = str(error)
    except BrokenPipeError:
        drop_output()
        return 0
    if trouble is not None:
        print(f"nas.report: {one_line(trouble)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
