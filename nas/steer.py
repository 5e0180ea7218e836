"""Direct a search while it runs: `python -m nas.steer RUN --note TEXT | --pin ID | --veto ID | --kind KIND`.

In goes what a person wants, out goes a message to the search (`inbox.py`), which takes it up at its next decision, or
when it is resumed. A note reaches the next prompts; a pinned candidate is promoted as soon as there is room; a vetoed
one is no parent and not promoted; a kind of change is asked for in the next proposal of a model; the model is asked no
more, or again. All are records with time and author, shown under the leaderboard.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nas import inbox
from nas.asking import user
from nas.propose.prompt import KINDS
from nas.store import Store, StoreError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m nas.steer", description="Direct a search while it runs.")
    made.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--note", metavar="TEXT", help="a sentence for the next prompts")
    what.add_argument("--pin", type=int, metavar="ID", help="promote this candidate as soon as there is room")
    what.add_argument("--unpin", type=int, metavar="ID", help="take that back")
    what.add_argument("--veto", type=int, metavar="ID", help="no parent and no promotion any more")
    what.add_argument("--unveto", type=int, metavar="ID", help="take that back")
    what.add_argument("--kind", choices=sorted(KINDS), help="kind of change of the next proposal of a model")
    what.add_argument("--model", choices=("on", "off"), help="ask the model no more, or again")
    made.add_argument("--author", metavar="NAME", help="who says so (the user's name)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Send the message; 2 if there is no such run or candidate."""
    parsed = parser().parse_args(arguments)
    try:
        kind, content = _content(parsed)
        inbox.put(parsed.run, inbox.message(kind, parsed.author or user(), **content))
    except StoreError as error:
        print(f"nas.steer: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"nas.steer: the message cannot be left in '{parsed.run}' ({error}); make it writable", file=sys.stderr)
        return 2
    print(f"{kind} is left in {parsed.run}; the search takes it up at its next decision, or when it is resumed")
    return 0


def _content(parsed: argparse.Namespace) -> tuple[inbox.Kind, dict[str, object]]:
    store = Store(parsed.run)
    try:
        _ = store.config  # of a run that is damaged nothing can be resumed, so nobody would ever take it up
        known = {entry.candidate.id for entry in store.entries()}
    finally:
        store.close()
    if parsed.note is not None:
        if not parsed.note.strip():
            raise StoreError("--note '' says nothing; give a sentence")
        return "note", {"text": parsed.note}
    if parsed.kind is not None:
        return "kind", {"text": parsed.kind}
    if parsed.model is not None:
        return "model", {"text": parsed.model}
    for kind in ("pin", "unpin", "veto", "unveto"):
        candidate = getattr(parsed, kind)
        if candidate is not None:
            if candidate not in known:
                last = max(known, default=0)
                raise StoreError(f"--{kind} {candidate}: the run has no such candidate; it has 1 to {last} so far")
            return kind, {"candidate": candidate}
    raise AssertionError("the parser asks for one of them")


if __name__ == "__main__":
    sys.exit(main())
