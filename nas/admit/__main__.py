"""Admit one file, for whoever writes a candidate or a space: `python -m nas.admit FILE --space mnist1d`.

Prints the verdict, and for an admitted candidate what its program costs and its fingerprint; with `--device tpu-v5e`
also whether it compiles for that device, in what time, and whether it fits, on a machine that has none. Exit status 0
if it is admitted and, where a device is named, compiles and fits; 1 if not; 2 if the file or the space cannot be read,
the device is not known, its compiler or a lock is missing; 130 after Ctrl-C.
`--self-check` says instead what a candidate could reach on this machine.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from nas.admit import Admitted, Flow, admit, drive
from nas.admit.ahead import TPUS, missing
from nas.admit.gate import check
from nas.admit.self_check import self_check
from nas.declared import must_hold
from nas.execute import Job, Sandbox, Unlocked, usual_sandbox
from nas.execute.confine import sentence
from nas.execute.local import LocalExecutor
from nas.progress import drop_output, print_any_text
from nas.records import Failure, defaults
from nas.space import SearchSpace, SpaceError, canonical, load

AHEAD_TIMEOUT_S = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nas.admit",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit status: 0 admitted (with --device: it also compiles and fits), 1 not, 2 it could not be tried.",
    )
    parser.add_argument("file", type=Path, nargs="?", help="the candidate's module")
    parser.add_argument("--space", default="mnist1d", metavar="SPACE", help="name, file or module:object (mnist1d)")
    device = f"also compile it for {', '.join(TPUS)}, without having one; it has to fit too"
    parser.add_argument("--device", metavar="NAME", help=device)
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument("--sandbox", choices=get_args(Sandbox), help="what it is locked with, as in nas.search")
    parser.add_argument("--self-check", action="store_true", help="say what a candidate could reach on this machine")
    parsed = parser.parse_args(arguments)
    if parsed.self_check:
        given = [what for what in ("FILE", "--device", "--json") if getattr(parsed, what.strip("-").lower())]
        if given:
            parser.error(f"--self-check tries no candidate and prints text; leave out {', '.join(given)}")
    elif parsed.file is None:
        parser.error("give the candidate's file, or --self-check")
    print_any_text()
    status = 2
    try:
        status = self_check() if parsed.self_check else _admit(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
    except KeyboardInterrupt:
        print("nas.admit: interrupted", file=sys.stderr)
        return 130
    return status


def _admit(parsed: argparse.Namespace) -> int:
    """Print the verdict on a file; returns the exit status."""
    try:
        sandbox = parsed.sandbox or usual_sandbox()
    except Unlocked as error:
        print(f"nas.admit: {error}", file=sys.stderr)
        return 2
    try:
        space = load(parsed.space)
        must_hold(space, parsed.space)
        source = parsed.file.read_text("utf-8")
    except SpaceError as error:
        print(f"nas.admit: {error}", file=sys.stderr)
        return 2
    except (OSError, UnicodeDecodeError) as error:
        print(f"nas.admit: {parsed.file} cannot be read ({error}); give a Python file in UTF-8", file=sys.stderr)
        return 2
    if parsed.device is not None and (problem := _unusable(parsed.device)):
        print(f"nas.admit: {problem}", file=sys.stderr)
        return 2
    try:
        verdict, compiled = _verdict(space, canonical(parsed.space), source, parsed.device, sandbox)
    except Unlocked as error:
        print(f"nas.admit: the sandbox has {error}. Say --sandbox auto to go on with the other locks", file=sys.stderr)
        return 2
    if parsed.json:
        facts = {"admitted": True, **verdict.facts} if isinstance(verdict, Admitted) else {"admitted": False}
        facts |= {"compiled": compiled} if compiled else {}
        failures = [] if isinstance(verdict, Admitted) else [str(failure) for failure in verdict]
        print(json.dumps({**facts, "failures": failures}, sort_keys=True))
    elif isinstance(verdict, Admitted):
        _print_facts(verdict, space, compiled)
    else:
        for failure in verdict:
            place = f"{parsed.file}:{failure.line}" if failure.line else str(parsed.file)
            print(f"{place}: {failure.stage}/{failure.rule}: {failure.message}")
        print("rejected")
    return 0 if isinstance(verdict, Admitted) and (compiled is None or compiled.get("fits")) else 1


def _unusable(device: str) -> str:
    if device not in TPUS:
        return f"--device {device} is not known; it may be {', '.join(TPUS)}"
    return missing()


def _verdict(
    space: SearchSpace, reference: str, source: str, device: str | None, sandbox: Sandbox
) -> tuple[Admitted | Sequence[Failure], dict[str, Any] | None]:
    """What came of the candidate, and of compiling it for a device, if there is one to compile for.

    Raises:
      Unlocked: a lock is missing that was asked for.
    """
    gated = check(source, space.scope)
    if gated.failures:
        return gated.failures, None
    platform = "tpu" if device else "cpu"
    with LocalExecutor(workers=1, sandbox=sandbox) as executor:
        for layer, why in executor.missing_locks().items():
            print(f"SANDBOX: {sentence(layer, why)}", file=sys.stderr)
        found = drive(executor, admit(reference, source, defaults(gated.tunables), platform=platform))
        if isinstance(found, Failure):
            return [found], None
        return found, drive(executor, _ahead(reference, found, device)) if device else None


def _ahead(reference: str, found: Admitted, device: str) -> Flow[dict[str, Any]]:
    payload = {"space": reference, "blobs": dict(found.blobs), "param_leaves": found.facts["param_leaves"]}
    entry = "nas.admit.ahead:compile_job"
    # Not locked: libtpu aborts where it may not do what it does, and here a program is compiled and not run.
    (event,) = yield [Job(id="ahead", entry=entry, payload={**payload, "device": device}, timeout_s=AHEAD_TIMEOUT_S)]
    return event.result if event.kind == "done" else {"error": f"{event.kind}: {event.error}"}


def _print_facts(admitted: Admitted, space: SearchSpace, compiled: Mapping[str, Any] | None) -> None:
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
    if compiled is not None:
        _print_compiled(compiled)
    usable = compiled is None or compiled.get("fits")
    print("admitted" if usable else "admitted, but not usable on that device")


def _print_compiled(compiled: Mapping[str, Any]) -> None:
    if "error" in compiled:
        print(f"does not compile: {compiled['error'][:400]}")
        return
    for name in ("step", "evaluation"):
        one = compiled[name]
        print(f"{name + ':':<14}{one['memory_bytes'] / 2**20:>14,.1f} MiB, compiled in {one['compile_s']:.1f} s")
    print(f"{'of these':<14}{compiled['data_bytes'] / 2**20:>14,.1f} MiB are all training examples, kept on the device")
    verdict = "fits" if compiled["fits"] else "does NOT fit"
    print(f"{compiled['device'] + ':':<14}{compiled['memory_bytes'] / 2**20:>14,.1f} MiB: it {verdict}")


if __name__ == "__main__":
    sys.exit(main())
