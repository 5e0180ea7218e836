"""Admit one file, for whoever writes a candidate or a space: `python -m nas.admit FILE --space mnist1d`.

Prints the verdict, and for an admitted candidate what its program costs and its fingerprint. Exit status 0 if it is
admitted, 1 if not, 2 if the file or the space cannot be read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.admit import Admitted, admit, drive
from nas.admit.gate import check
from nas.execute.local import LocalExecutor
from nas.records import Failure, defaults
from nas.space import SearchSpace, SpaceError, canonical, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nas.admit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="the candidate's module")
    parser.add_argument("--space", default="mnist1d", metavar="SPACE", help="name, file or module:object (mnist1d)")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parsed = parser.parse_args(arguments)
    try:
        space = load(parsed.space)
        source = parsed.file.read_text("utf-8")
    except SpaceError as error:
        print(f"nas.admit: {error}", file=sys.stderr)
        return 2
    except (OSError, UnicodeDecodeError) as error:
        print(f"nas.admit: {parsed.file} cannot be read ({error}); give a Python file in UTF-8", file=sys.stderr)
        return 2
    verdict = _verdict(space, canonical(parsed.space), source)
    if parsed.json:
        facts = {"admitted": True, **verdict.facts} if isinstance(verdict, Admitted) else {"admitted": False}
        failures = [] if isinstance(verdict, Admitted) else [str(failure) for failure in verdict]
        print(json.dumps({**facts, "failures": failures}, sort_keys=True))
    elif isinstance(verdict, Admitted):
        _print_facts(verdict, space)
    else:
        for failure in verdict:
            place = f"{parsed.file}:{failure.line}" if failure.line else str(parsed.file)
            print(f"{place}: {failure.stage}/{failure.rule}: {failure.message}")
        print("rejected")
    return 0 if isinstance(verdict, Admitted) else 1


def _verdict(space: SearchSpace, reference: str, source: str) -> Admitted | Sequence[Failure]:
    gated = check(source, space.scope)
    if gated.failures:
        return gated.failures
    with LocalExecutor(workers=1) as executor:
        found = drive(executor, admit(reference, source, defaults(gated.tunables)))
    return [found] if isinstance(found, Failure) else found


def _print_facts(admitted: Admitted, space: SearchSpace) -> None:
    cost, contract = admitted.facts["cost"], space.contract

    def line(name: str, value: int, limit: int | None, unit: str = "") -> None:
        allowed = f"  (limit {limit:,}{unit})" if limit else ""
        print(f"{name + ':':<14}{value:>14,}{unit}{allowed}")

    line("parameters", cost["params"], contract.max_params)
    line("FLOPs", cost["flops"], contract.max_flops, " an example")
    line("train FLOPs", cost["train_flops"], None, " an example")
    line("memory", cost["memory_bytes"], contract.max_memory_bytes, " B")
    line("operations", cost["ops"], None)
    print(f"{'traits:':<14}{', '.join(admitted.facts['traits']) or 'none'}")
    print(f"{'fingerprint:':<14}{admitted.facts['fingerprint']}")
    print("admitted")


if __name__ == "__main__":
    sys.exit(main())
