"""Which model a run asks, if any: from arguments and the environment to a desk.

A run's configuration holds everything about the model that its results may depend on, under `model`, and never a key;
a resumed run takes it from there. `--proposer replay:RUN` takes the configuration of the other run as a whole, so that
the same questions are asked, and answers them from its transcript.
"""

import argparse
import getpass
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

from nas.execute import Executor
from nas.inbox import Message, message
from nas.llm import LlmError, Role
from nas.llm.client import HOW_TO_SET_A_KEY, Client, Settings, resolve
from nas.llm.desk import Desk, Nobody
from nas.llm.ledger import Ledger
from nas.llm.price import Price, prices_for, read_price
from nas.llm.transcript import Replay, Transcript
from nas.propose.claude import Author
from nas.store import Store

REPLAY = "replay:"
DEFAULT_USD = "10"
"""Limit of a search whose user, who may have forgotten that a key is set, names none [$]."""
DEADLINE_S = 600.0
"""Longest time that one call may take, its repetitions included [s]."""
BACKOFF_S = 2.0
"""First wait between two attempts, if the server asks for none [s]; it doubles."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The part of the command line that is about the model."""
    add = parser.add_argument_group("the model", "Without a key nothing is asked, and evolution proposes.").add_argument
    add("--proposer", default="auto", metavar="WHO",
        help="auto (a model if there is a key), claude, evolution, or replay:RUN (auto)")  # fmt: skip
    add(
        "--model",
        action="append",
        metavar="[ROLE=]ID",
        help="the model, or that of propose, repair or forecast (NAS_MODEL, ANTHROPIC_MODEL, claude-sonnet-5-5)",
    )
    add("--base-url", metavar="URL", help="a server that speaks /v1/messages (NAS_BASE_URL)")
    add("--api-key", metavar="KEY", help="better in NAS_API_KEY or ANTHROPIC_API_KEY: others see the arguments")
    add(
        "--effort", choices=("low", "medium", "high", "xhigh", "max"), help="of the model (medium; none to a local one)"
    )
    add("--max-usd", metavar="USD", help=f"most that the model may cost ({DEFAULT_USD}, or no limit with --max-calls)")
    add("--max-calls", type=int, metavar="N", help="most calls to the model (no limit)")
    add("--price", metavar="IN/OUT", help="dollars for a million tokens, of a model that is in no table; 0/0 is free")
    add("--no-forecasts", action="store_true", help="have the model write candidates only")
    add("--blind-control", action="store_true", help="a further arm: the model writes without knowing any results")


def check(parsed: argparse.Namespace) -> None:
    """Find out whether what is said of the model has a form that can be used, whether or not one is asked in the end.

    Raises:
      LlmError: it has not.
    """
    if parsed.proposer not in ("auto", "claude", "evolution") and not parsed.proposer.startswith(REPLAY):
        text = "it is auto, claude, evolution, or replay: and the folder of a run"
        raise LlmError(f"--proposer '{parsed.proposer}' is not known; {text}")
    if parsed.base_url is not None and not parsed.base_url.strip():
        raise LlmError("--base-url '' is no address; give one like http://127.0.0.1:11434, or leave it out")
    model, roles = _models(parsed.model or ())
    key = parsed.api_key or "any"  # which one there is, and where, is seen when there is something to ask
    resolve(model=model, roles=roles, base_url=parsed.base_url, key=key, environ={})
    if parsed.max_calls is not None and parsed.max_calls < 1:
        raise LlmError(f"--max-calls {parsed.max_calls}: give 1 or more, or leave it out")
    if parsed.price is not None:
        read_price(parsed.price)
    _limit({"max_usd": parsed.max_usd})


def settings_of(parsed: argparse.Namespace, client: Any = None) -> Settings | None:
    """Which model answers, by the command line and the environment; None if none does.

    Raises:
      LlmError: what was asked for cannot be had.
    """
    if parsed.proposer == "evolution" or parsed.proposer.startswith(REPLAY):
        return None
    model, roles = _models(parsed.model or ())
    found = resolve(model=model, roles=roles, base_url=parsed.base_url, key=parsed.api_key, client=client)
    if found is None and (parsed.proposer == "claude" or parsed.model):  # a NAS_MODEL that is always set asks nothing
        what = f"--model {parsed.model[0]}" if parsed.model else "--proposer claude"
        raise LlmError(f"{what} needs a key; {HOW_TO_SET_A_KEY}")
    return found


def _models(given: Sequence[str]) -> tuple[str | None, dict[Role, str]]:
    """The model for all roles, and those for one."""
    pairs = [text.rpartition("=") for text in given]
    if empty := [text for text, (_, _, name) in zip(given, pairs, strict=True) if not name.strip()]:
        raise LlmError(f"--model '{empty[0]}' names no model; give its id, or for one role for instance forecast=ID")
    if twice := [role for number, (role, _, _) in enumerate(pairs) if role in [one for one, _, _ in pairs[:number]]]:
        raise LlmError(f"--model is given twice for {twice[0] or 'all roles'}; give it once")
    roles = cast(dict[Role, str], {role: name for role, _, name in pairs if role})  # resolve() refuses strange ones
    return next((name for role, _, name in pairs if not role), None), roles


def configure(parsed: argparse.Namespace, settings: Settings | None) -> dict[str, Any] | None:
    """What a new run's configuration says about the model; None if none is asked.

    Raises:
      LlmError: what a model costs is not known.
    """
    if settings is None:
        return None
    made = {
        "models": dict(settings.models),
        "base_url": settings.base_url,
        "local": settings.local,
        "effort": parsed.effort or (None if settings.local else "medium"),
        "max_usd": parsed.max_usd or (None if parsed.max_calls is not None else DEFAULT_USD),
        "max_calls": parsed.max_calls,
        "price": parsed.price,
        "forecasts": not parsed.no_forecasts,
        "blind": parsed.blind_control,
    }
    _prices(made)
    return made


def author_of(model: Mapping[str, Any] | None) -> Author | None:
    """How a run with this configuration has a model write."""
    return Author(models=model["models"], effort=model["effort"]) if model else None


def resumed(parsed: argparse.Namespace, store: Store, client: Any = None) -> tuple[Settings | None, Message | None]:
    """The settings of a run that is continued, with a key from the environment, and what changes about its model.

    New limits have the model asked again, whatever it was given up for; `--proposer evolution` has it asked no more,
    and then no key is needed.

    Raises:
      LlmError: the run has a model and there is no key for it now, or what is asked for cannot be had.
    """
    model = store.config.get("model")
    said = _change(parsed, model)
    if model is None or "replay" in store.config:
        return None, None
    on, limits = state(store, said)
    if not on:
        return None, said
    _limit(limits)
    roles: dict[Role, str] = dict(model["models"])
    key, address = parsed.api_key, None if client else model["base_url"]
    found = resolve(base_url=address, roles=roles, key=key, client=client)
    if found is None or not client and found.base_url != model["base_url"]:
        raise LlmError(f"this run asks {roles['propose']} at {model['base_url'] or 'Anthropic'}; {HOW_TO_SET_A_KEY}")
    return replace(found, local=model["local"]), said


def _change(parsed: argparse.Namespace, model: Mapping[str, Any] | None) -> Message | None:
    """What the command line wants changed about the model of a run that is continued."""
    limits = {key: getattr(parsed, key) for key in ("max_usd", "max_calls") if getattr(parsed, key) is not None}
    if parsed.proposer == "auto" and not limits:
        return None
    if parsed.proposer not in ("auto", "claude", "evolution"):
        raise LlmError(f"--proposer '{parsed.proposer}' cannot be given to a run that is continued; leave it out")
    if model is None:
        if parsed.proposer == "evolution":
            return None
        raise LlmError("this run was begun without a model and goes on without; start a new one for --proposer claude")
    if parsed.proposer == "evolution":
        return message("model", user(), text="off")
    return message("model", user(), text="on", **limits)


def state(store: Store, last: Message | None = None) -> tuple[bool, dict[str, Any]]:
    """Whether a run's model is asked, and the model's configuration with the limits of now."""
    on, model = True, dict(store.config["model"])
    for content in [
        *(m["content"] for m in store.messages() if m["kind"] == "model"),
        *([last.content] if last else []),
    ]:
        on = content["text"] == "on"
        if {"max_usd", "max_calls"} & content.keys():
            model |= {"max_usd": content.get("max_usd"), "max_calls": content.get("max_calls")}
    return on, model


def user() -> str:
    """Who is at the keyboard."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        return "somebody"


def replayed(parsed: argparse.Namespace) -> tuple[Path, dict[str, Any]] | None:
    """The run to be replayed and its configuration, or None.

    Raises:
      StoreError: there is no such run.
      LlmError: it asked no model.
    """
    if not parsed.proposer.startswith(REPLAY):
        return None
    folder = Path(parsed.proposer.removeprefix(REPLAY))
    store = Store(folder)
    config = store.config
    store.close()
    if not config.get("model"):
        raise LlmError(f"'{folder}' asked no model, so there is nothing to replay; repeat it with its --seed instead")
    if config["order"] == "arrival":
        raise LlmError(
            f"'{folder}' decided in order of arrival, which cannot be repeated; replay one in order of slots"
        )
    return folder, config


def make_sure(settings: Settings | None) -> Client | None:
    """Connect, and find out before anything is trained whether the model would answer.

    Returns:
      The client, which is to be closed; it may have sent messages for it already, that count as spent.
    Raises:
      LlmError: the key is not accepted, the model not known, or the server not there.
    """
    if settings is None:
        return None
    client = Client(settings, deadline_s=DEADLINE_S, backoff_s=BACKOFF_S)
    try:
        client.check()
    except BaseException:
        client.close()
        raise
    return client


def heard(folder: Path) -> dict[int, list[Message]]:
    """The messages that a run was told, by the slot where they counted."""
    store = Store(folder)
    found: dict[int, list[Message]] = {}
    for row in store.messages():
        if row["kind"] != "sandbox":  # that is this machine's
            found.setdefault(row.pop("slot"), []).append(Message(**row))
    store.close()
    return found


def open_desk(executor: Executor, store: Store, client: Client | None) -> Desk:
    """A desk for a run that has a model, or had one.

    Args:
      executor: runs the jobs.
      store: of the run.
      client: asks the model; None if the answers are those of another run, or there are none any more.
    Raises:
      LlmError: the transcript cannot be used.
    """
    _, model = state(store)
    transcript = Transcript(store.folder / "transcript")
    ledger = Ledger(
        _limit(model), _prices(model), limit_calls=model["max_calls"], before=transcript.begin
    )  # fmt: skip
    for request, reply in client.tried if client else ():
        transcript.record(request, reply, ledger.cost(request, reply))
    ledger.restore(transcript.settled())
    source: Client | Replay | Nobody
    if client is not None:
        client.purse = ledger
        source = client
    elif "replay" in store.config:
        source = Replay(Path(store.config["replay"]) / "transcript")
    else:
        source = Nobody()
    return Desk(executor, transcript, ledger, source)


def _prices(model: Mapping[str, Any]) -> Mapping[str, Price]:
    """Prices that go before the table; every model must have one, unless calls are limited and dollars are not."""
    extra = {name: read_price(model["price"]) for name in model["models"].values()} if model["price"] else {}
    if model["max_usd"] is not None or model["max_calls"] is None:
        prices_for(model["models"].values(), extra)
    return extra


def _limit(model: Mapping[str, Any]) -> Decimal | None:
    if model["max_usd"] is None:
        return None
    try:
        limit = Decimal(model["max_usd"])
    except InvalidOperation:
        limit = Decimal(-1)
    if not (limit.is_finite() and limit > 0):
        raise LlmError(f"--max-usd {model['max_usd']}: give an amount of dollars above 0, for instance 5")
    return limit
