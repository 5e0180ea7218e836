"""Search a space, from the command line: `python -m nas.search --budget 200`.

This module reads the arguments, opens or continues a run, starts the executor, and prints the table at the end. What
happens in between is `loop.py`. Results go to standard output, progress to standard error. Exit status: 0 if at
least one candidate was scored, 1 if none was, 2 if the arguments or the run were of no use, 130 after Ctrl-C.
"""

import os
import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # while it imports for a second, there is nothing to stop

import argparse
import contextlib
import importlib.metadata
import importlib.util
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from nas import asking, declared
from nas.confirm import FINALISTS, Confirmation, kept_folder
from nas.control import sentence
from nas.execute import NoServer, Sandbox, Unlocked, usual_sandbox
from nas.execute.local import LocalExecutor
from nas.leaderboard import write_table
from nas.llm import LlmError
from nas.llm.client import HOW_TO_SET_A_KEY
from nas.llm.desk import Desk
from nas.loop import Config, Search, stop_on_signals
from nas.machine import machine
from nas.progress import View, make_view, print_any_text
from nas.records import to_plain
from nas.space import SearchSpace, SpaceError, canonical, digest, file_name, load, names, with_options
from nas.standings import board, read
from nas.store import Store, StoreError
from nas.strategy import TUNE_BEST
from nas.workplace import cores, default_workers, devices_here, open_workplace

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "optuna", "numpy")
_OF_THE_RUN = (
    "space", "control", "budget", "seed", "lookahead", "order", "name", "model", "base_url", "effort", "price",
    "no_forecasts", "blind_control", "data", "size", "devices_per_trial",
)  # fmt: skip
"""Arguments that a run is begun with, and keeps."""


class UsageError(ValueError):
    """An argument that cannot be used; the message says what was received and what is allowed."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m nas.search",
        description="Search for architectures, from proposals to a table. Without an API key, evolution proposes.",
    )
    add = made.add_argument
    add("--space", default="mnist1d", metavar="SPACE", help=f"{', '.join(names())}, a file or module:object (mnist1d)")
    add("--data", metavar="PATH", help="text that the space is about, if it asks for one: a file, a folder, or tokens")
    add("--size", metavar="NAME", help="another size of the space, if it has one (gpu)")
    add("--budget", type=int, default=200, metavar="N", help="candidates admitted to the first rung (200)")
    add("--seed", type=int, default=0, metavar="N", help="of every draw (0)")
    add("--workers", type=int, metavar="N", help="jobs at once (one a core, or four an accelerator)")
    add(
        "--lookahead",
        type=int,
        metavar="N",
        help="tasks a decision does not wait for (8 a worker, 16 for a slow model)",
    )
    add("--order", choices=("slots", "arrival"), default="slots", help="slots repeats bit for bit; arrival never waits")
    add(
        "--sandbox",
        choices=get_args(Sandbox),
        help="what code that a model wrote is locked with: strict refuses to run it without all of the kernel's locks, "
        "auto uses those that there are and says what is missing, off none (strict on Linux)",
    )
    add("--devices-per-trial", type=int, default=1, metavar="N", help="accelerators that share a trial's batches (1)")
    add("--max-hours", type=float, metavar="H", help="decide nothing new after so many hours (no limit)")
    add("--confirm", type=int, metavar="N", help=f"finalists that fresh seeds confirm at the end ({FINALISTS})")
    control = f"spend the budget on tuning a baseline's numbers instead: {TUNE_BEST}, or tune- and the name of another"
    add("--control", metavar="tune-NAME", help=control)
    add("--name", metavar="NAME", help="of the run's folder (space and time)")
    add("--results", type=Path, default=Path("results/runs"), metavar="DIR", help="where runs are kept (results/runs)")
    add("--resume", type=Path, metavar="DIR", help="continue the run in this folder; other choices are taken from it")
    asking.add_arguments(made)
    add("--dry-run", action="store_true", help="print the ladder, the expected trainings and the time, and stop")
    add("--debug", action="store_true", help="show the traceback of an error")
    return made


def main(arguments: Sequence[str] | None = None, client: Any = None) -> int:
    """Run the command line; returns the exit status.

    Args:
      arguments: of the command line; those of this process if None.
      client: a client object of the SDK that reaches the model, for instance `anthropic.AsyncAnthropicBedrock()`.
    """
    parsed = parser().parse_args(arguments)
    print_any_text()
    try:
        return _run(parsed, arguments, client)
    except (UsageError, SpaceError, StoreError, LlmError, Unlocked, NoServer) as error:
        if parsed.debug:
            traceback.print_exc()
        print(f"nas.search: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        if parsed.debug:
            traceback.print_exc()
        text = f"{error.filename or 'a file'} cannot be written or read ({error.strerror}); see to it, then --resume"
        print(f"nas.search: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("nas.search: interrupted; nothing that was stored is lost", file=sys.stderr)
        return 130


def _run(parsed: argparse.Namespace, arguments: Sequence[str] | None, client: Any) -> int:
    replayed = asking.replayed(parsed)
    if replayed is not None:  # what is not said otherwise is as it was
        kept = ("space", "budget", "seed", "lookahead", "order", "confirm", "control")
        made = parser()
        made.set_defaults(**{key: replayed[1].get(key) for key in kept})
        made.set_defaults(devices_per_trial=replayed[1].get("devices", 1))
        parsed = made.parse_args(arguments)
    _check(parsed)
    if not parsed.resume:
        return _search(parsed, None, replayed, client)
    with contextlib.closing(Store(parsed.resume, write=True)) as store:
        return _search(parsed, store, replayed, client)


def _search(
    parsed: argparse.Namespace, store: Store | None, replayed: tuple[Path, dict[str, Any]] | None, client: Any
) -> int:
    options = {name: text for name in ("data", "size") if (text := getattr(parsed, name)) is not None}
    reference = store.config["space"] if store else canonical(with_options(parsed.space, options))
    space = load(reference)
    if store is None:
        declared.must_hold(space, reference)
        _check_devices(space, parsed.devices_per_trial)
        _check_control(space, parsed.control)
    if parsed.dry_run:
        return _dry_run(space, reference, parsed)
    workers = parsed.workers or default_workers()
    if store is None:
        settings = None if parsed.control else asking.settings_of(parsed, client)
        model = replayed[1]["model"] if replayed else asking.configure(parsed, settings)
        asked = asking.make_sure(settings)
        most = parsed.lookahead or (16 if model else 8) * workers
        more = {"model": model, "most_lookahead": replayed[1].get("most_lookahead", 0) if replayed else most}
        more |= {"replay": str(replayed[0].resolve())} if replayed else {}
        store = _create(parsed, space, reference, workers, more)
    else:
        try:
            settings, change = asking.resumed(parsed, store, client)
            asked = asking.make_sure(settings)
        except LlmError as error:
            raise LlmError(f"{error}; --proposer evolution goes on without it") from error
        if change is not None:
            store.hear(max((task.slot for task in store.tasks()), default=-1) + 1, to_plain(change))
    config = store.config
    view = make_view()
    try:
        _say_start(view, store, config, space, resumed=bool(parsed.resume))
        with contextlib.ExitStack() as open_things:
            workplace = open_workplace(store, space, workers, parsed.sandbox)
            local, place, warnings = open_things.enter_context(workplace)
            for text in warnings:
                view.say(text)
            executor: LocalExecutor | Desk = local
            if config.get("model"):
                executor = asking.open_desk(local, store, asked)
                open_things.callback(executor.close)
                for text in executor.transcript.damaged:
                    view.say(f"warning: {text}; that call is made again")
            deadline = time.monotonic() + 3600 * parsed.max_hours if parsed.max_hours else None
            search = Search(place, executor, _config(config), view, deadline)
            if "replay" in config:
                search.heard_before = asking.heard(Path(config["replay"]))
            try:
                with stop_on_signals(search, view.say):
                    finished = search.run()
            finally:
                if isinstance(executor, Desk):
                    executor.close()  # what was answered and paid for is kept first
            _copy_study(search, store, view)
            stopped = search.stopping
            count = config.get("confirm", FINALISTS) if parsed.confirm is None else parsed.confirm
            if finished and count:
                confirmation = Confirmation(place, local, count, kept_folder(store.folder), view.say)
                with stop_on_signals(confirmation, view.say):
                    finished = confirmation.run()
                stopped = confirmation.stopping
    except KeyboardInterrupt:  # before there was anything to stop, or again
        view.close()
        print(f"continue: python -m nas.search --resume {store.folder}")
        raise
    finally:
        view.close()
        store.close()
    return _end(store, finished, stopped=stopped)


def _copy_study(search: Search, store: Store, view: View) -> None:
    """Bring Optuna's copy of the study up to date: others read it, and the search does not need it."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        search.strategy.tuner.sync(f"sqlite:///{store.path}", "nas")
    except (OptunaError, SQLAlchemyError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = " ".join(str(cause).split())[:200]
        view.say(
            f"warning: the copy of Optuna's study in {store.path} could not be written ({why}); --resume writes it"
        )


def _config(config: Mapping[str, Any]) -> Config:
    """What the search is asked to do, from a run's configuration."""
    model = config.get("model") or {}
    own = "replay" not in config  # a replay is told by the record how far to look ahead
    return Config(
        most_lookahead=config.get("most_lookahead", 0) if own else 0,
        **{key: config[key] for key in ("budget", "seed", "lookahead", "order")},
        author=asking.author_of(model),
        forecasts=model.get("forecasts", False),
        control=config.get("control") or "",
        blind=model.get("blind", False),
    )


def _check_control(space: SearchSpace, control: str | None) -> None:
    known = [f"tune-{name}" for name in space.baselines]
    if control is not None and control not in (TUNE_BEST, *known):
        raise UsageError(f"--control {control}: give {', '.join((TUNE_BEST, *known))}")


def _check(parsed: argparse.Namespace) -> None:
    if parsed.budget < 1:
        raise UsageError(f"--budget {parsed.budget}: a budget is 1 or more; try --budget 20 for a first look")
    for flag in ("workers", "lookahead"):
        value = getattr(parsed, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: give 1 or more, or leave it out")
    if parsed.confirm is not None and parsed.confirm < 0:
        raise UsageError(f"--confirm {parsed.confirm}: give how many finalists are confirmed, or 0 for none")
    if parsed.max_hours is not None and not parsed.max_hours > 0:
        raise UsageError(f"--max-hours {parsed.max_hours}: give a number above 0, or leave it out")
    if parsed.seed < 0:
        raise UsageError(f"--seed {parsed.seed}: give 0 or more")
    if parsed.data is not None and not parsed.data.strip():
        raise UsageError("--data '' names nothing; give a file or a folder, or leave it out")
    asking.check(parsed)
    if parsed.resume:
        made = parser()
        if parsed.dry_run:
            raise UsageError("--dry-run tells of a search that is not begun yet; leave out --resume")
        given = [flag for flag in _OF_THE_RUN if getattr(parsed, flag) != made.get_default(flag)]
        if given:
            flag = given[0].replace("_", "-")
            raise UsageError(f"--{flag} belongs to the run and cannot be changed by --resume; leave it out")
    if parsed.name is not None and (not parsed.name or "/" in parsed.name or parsed.name.startswith(".")):
        raise UsageError(f"--name '{parsed.name}': give a plain folder name, without '/' and not starting with '.'")


def _check_devices(space: SearchSpace, devices: int) -> None:
    """Refuse a number of devices that there are not, or that does not divide the batches."""
    if devices < 1:
        raise UsageError(f"--devices-per-trial {devices}: give 1 or more, or leave it out")
    if devices > (there := devices_here()):
        raise UsageError(f"--devices-per-trial {devices}: this machine has {there}; give that many or fewer")
    for name, size in (("microbatch", space.recipe.microbatch), ("eval_batch", space.recipe.eval_batch)):
        if size % devices:
            raise UsageError(f"--devices-per-trial {devices}: it does not divide the space's {name}, {size}")


def _create(
    parsed: argparse.Namespace, space: SearchSpace, reference: str, workers: int, more: Mapping[str, Any]
) -> Store:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    name = parsed.name or f"{file_name(space.name)}-{stamp}"
    config: dict[str, Any] = {
        "space": reference,
        "space_name": space.name,
        "space_version": space.version,
        "space_digest": digest(space),
        "metric": space.task.metric,
        "maximize": space.task.maximize,
        "decimals": space.task.decimals,
        "ladder": {"steps": list(space.ladder.steps), "eta": space.ladder.eta, "draws": space.ladder.draws},
        "batch": space.recipe.batch,
        **({"parts": list(space.task.parts)} if space.task.parts else {}),
        **({"devices": parsed.devices_per_trial} if parsed.devices_per_trial > 1 else {}),
        "baseline_seeds": space.baseline_seeds,
        "budget": parsed.budget,
        "seed": parsed.seed,
        "lookahead": parsed.lookahead or 8 * workers,
        "order": parsed.order,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "machine": machine() | {"workers": workers},
        "control": parsed.control,
        "confirm": FINALISTS if parsed.confirm is None else parsed.confirm,
        "sandbox": parsed.sandbox or usual_sandbox(),
        "name": name,
        "created": stamp,
        **more,
    }
    return Store.create(parsed.results / name, config)


def _say_start(view: View, store: Store, config: dict[str, Any], space: SearchSpace, *, resumed: bool) -> None:
    view.say(
        f"{space.name}@{space.version}, budget {config['budget']}, seed {config['seed']}, run {store.folder}; "
        + _say_who(store, config)
    )
    if not resumed:
        return
    for key, was in config["versions"].items():
        now = importlib.metadata.version(key)
        if now != was:
            view.say(f"warning: {key} is {now}, the run began with {was}; results may differ in the last bits")
    now_on, was_on = machine(), config["machine"]
    for key in ("processor", "instructions", "system", "python"):
        if now_on[key] != was_on[key]:
            view.say(f"warning: this machine's {key} differs from the run's; results may differ in the last bits")


def _say_who(store: Store, config: Mapping[str, Any]) -> str:
    model = config.get("model")
    if config.get("control"):
        name = config["control"].removeprefix("tune-")
        which = "the best baseline" if config["control"] == TUNE_BEST else f"baseline {name}"
        return f"a control: the numbers of {which} are tuned, and nothing else is tried"
    if model is None:
        return f"no model is asked ({HOW_TO_SET_A_KEY}): evolution, random sampling and tuning propose"
    if "replay" in config:
        return f"the answers of {model['models']['propose']} are those of run {config['replay']}"
    on, model = asking.state(store)
    if not on:
        return "the model is asked no more: evolution, random sampling and tuning propose"
    limit = f"at most ${model['max_usd']}" if model["max_usd"] else f"at most {model['max_calls']} calls"
    return f"{model['models']['propose']} proposes beside evolution, random sampling and tuning ({limit})"


def _end(store: Store, finished: bool, *, stopped: bool) -> int:
    """Print the table, and how to go on."""
    reader = Store(store.folder)
    scored = any(score.point for score in reader.scores())
    records = read(reader)
    write_table(replace(board(records), control=sentence(store.folder, records)), sys.stdout)
    print(f"run: {store.folder} ({reader.disk_bytes() / 2**20:.0f} MiB)")
    reader.close()
    if not finished:
        print(f"continue: python -m nas.search --resume {store.folder}")
    return 130 if stopped else 0 if scored else 1


def _dry_run(space: SearchSpace, reference: str, parsed: argparse.Namespace) -> int:
    from nas.estimate import estimate

    digest(space)  # says what is wrong with a given text, and how much of it is used, as a search does
    finalists = FINALISTS if parsed.confirm is None else parsed.confirm
    print(estimate(space, reference, parsed.budget, parsed.workers or cores(), finalists, parsed.sandbox))
    return 0


def _command() -> int:
    """`main` as a command of its own: a first Ctrl-C ends it as `main` says, a second at once and without a word.

    Nothing need be cleaned up then: a run can be killed at any moment, and what it started goes with it.
    """

    def interrupted(*_: Any) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        raise KeyboardInterrupt

    heard = signal.getsignal(signal.SIGINT) != signal.SIG_IGN
    if heard:
        signal.signal(signal.SIGINT, interrupted)
    try:
        status = main()
    except KeyboardInterrupt:  # the second, while it answered the first
        status = 130
    if heard:
        with contextlib.suppress(OSError):  # a pipe that nobody reads any more
            sys.stdout.flush()
        signal.signal(signal.SIGINT, lambda *_: os._exit(status))
    return status


if __name__ == "__main__":
    sys.exit(_command())
