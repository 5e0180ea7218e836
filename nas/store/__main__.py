"""What a run's database holds, and whether all of it is whole: `python -m nas.store dump RUN`, `… check RUN`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.store import Store, StoreError, dump
from nas.store.check import check


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 if a check found something, 2 if the run cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m nas.store", description="Read or check what a run has stored.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in {
        "dump": "the canonical form: one JSON line a row, without times",
        "check": "every reference, checksum and invariant, and how to mend what is broken",
    }.items():
        commands.add_parser(name, help=about).add_argument("run", type=Path, help="folder of the run")
    parsed = parser.parse_args(arguments)
    try:
        store = Store(parsed.run)
        if parsed.command == "check":
            return _check(store)
        for line in dump(store):
            print(line)
    except StoreError as error:
        print(f"nas.store: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
    return 0


def _check(store: Store) -> int:
    if store.in_use():
        print("a search is at work here; what it is writing just now may look broken, so look again when it has ended")
    counted, found = check(store)
    for finding in found:
        print(f"{finding.what}\n    {finding.remedy}")
    print(f"{store.folder}: {', '.join(f'{number:,} {name}' for name, number in counted.items())} looked at; ", end="")
    worst = sum(finding.lost for finding in found)
    print(f"{len(found)} findings, {worst} of them of what is lost" if found else "all is whole")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
