"""The model card of an exported folder: metrics, data, lineage and limits, headed by the hub's `model-index`.

In go a run's records and the candidate that leaves; out comes Markdown. What a model wrote (ideas) stands in code
blocks, as text and never as markup. The header is YAML, of which JSON is a part, so that no library writes it. Source
of its form: huggingface.co/docs/hub/model-cards, "Evaluation Results".
"""

import json
import re
from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import TYPE_CHECKING, Any

from nas.confirmed import claim
from nas.judge.belief import LEVEL, Estimate
from nas.progress import duration, one_line
from nas.space import SearchSpace
from nas.standings import Board, Records
from nas.store import Entry, Store, locks

if TYPE_CHECKING:
    from nas.export.winner import Winner


def about(made: Board, entry: Entry, space: SearchSpace) -> str:
    """What a module's docstring says after the idea; `{load}` and `{predict}` stand for the names of functions."""
    shape = ", ".join(map(str, ("B", *space.contract.input_shape)))
    name = _quiet(made.config["name"])
    return (
        f"Candidate {entry.candidate.id} of the run {name} over {space.name}@{space.version}; README.md says how good\n"
        f"it is. It needs jax and flax alone:\n\n"
        f"    model = {{load}}()             # trained weights, evaluation mode\n"
        f"    outputs = {{predict}}(model, x)  # x ({shape}), {space.contract.input_dtype}"
    )


def readme(
    store: Store, records: Records, made: Board, winner: "Winner", config: Mapping[str, Any], named: Mapping[str, str]
) -> str:
    """Write the card."""
    name = _name(made, winner)
    idea = winner.entry.candidate.idea.strip() or "(no idea given)"
    parts = [
        _header(made, winner, name),
        f"# {name}\n\nA network that an architecture search found, in the words of whoever wrote it:\n\n{_block(idea)}",
        _use(named, config["evaluation"]["tasks"]),
        _metrics(made, winner),
        _data(store, made, winner, config),
        _training(config),
        "## Lineage\n\n" + _lineage(records, winner.entry),
        _cost(made),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(records, made, winner, config)),
    ]
    return "\n\n".join(parts) + "\n"


# ---- the header


def _header(made: Board, winner: "Winner", name: str) -> str:
    """YAML front matter with the scores of these weights and of all seeds."""
    config, test = made.config, winner.confirmed.belief.test
    assert winner.seed.test is not None, "a seed without a test score was chosen"
    metric, label = json.dumps(config["metric"]), config["metric"]
    values = [(winner.seed.test["score"], f"{label} of these weights")]
    if test is not None:
        values.append(
            (round(test.value, config["decimals"] + 2), f"{label}, mean of {winner.confirmed.belief.seeds} seeds")
        )
    metrics = "".join(
        f"    - type: {metric}\n      value: {value!r}\n      name: {json.dumps(text)}\n      verified: false\n"
        for value, text in values
    )
    dataset = re.sub(r"[^\w.-]+", "-", config["space_name"])
    return (
        "---\n"
        "library_name: flax\n"
        "license: unknown\n"
        "tags:\n- jax\n- flax\n- neural-architecture-search\n"
        f"metrics:\n- {metric}\n"
        "model-index:\n"
        f"- name: {json.dumps(name)}\n"
        "  results:\n"
        "  - task:\n      type: other\n"
        f"    dataset:\n      name: {json.dumps(config['space_name'])}\n      type: {json.dumps(dataset)}\n"
        f'      split: test\n      revision: "{config["space_version"]}"\n'
        f"    metrics:\n{metrics}"
        "---"
    )


def _name(made: Board, winner: "Winner") -> str:
    run = re.sub(r"[^\w.-]+", "-", made.config["name"])
    space = re.sub(r"[^\w.-]+", "-", made.config["space_name"])
    return f"{space}-{run}-{winner.entry.candidate.id}"


# ---- the sections


def _use(named: Mapping[str, str], tasks: Sequence[str]) -> str:
    first = repr(tasks[0]) if tasks else ""
    each = f" There are weights for each of the tasks\n{', '.join(tasks)}." if tasks else ""
    return (
        "## Use\n\n"
        "    pip install -r requirements.txt   # jax and flax\n"
        "    python evaluate.py                # gives the test score below, to 1e-6\n\n"
        f"`network.py` is all that a program needs: `network.{named['load']}({first})` returns the trained network in\n"
        f"evaluation mode, `network.{named['predict']}(model, x)` its outputs, `network.{named['build']}(seed)` a "
        f"fresh one.\n`weights.safetensors` names each array by its place in the network.{each}"
    )


def _metrics(made: Board, winner: "Winner") -> str:
    digits, belief, metric = made.config["decimals"], winner.confirmed.belief, made.config["metric"]
    assert winner.seed.test is not None, "a seed without a test score was chosen"
    better = "higher" if made.config["maximize"] else "lower"
    rows = [
        ("these weights, test", f"{winner.seed.test['score']:.7f}"),
        (f"{belief.seeds} fresh seeds, test", _estimate(belief.test, digits)),
        (f"{belief.seeds} fresh seeds, validation", _estimate(belief.validation, digits)),
        ("luck: search minus fresh validation", _estimate(belief.luck, digits, "+")),
        (f"better than every baseline, p ≤ {LEVEL:g}", claim(belief)),
    ]
    rows += [
        (f"baseline {_quiet(one.row.name)}, {one.belief.seeds} seeds, test", _estimate(one.belief.test, digits))
        for one in made.confirmed
        if one.row.arm == "baseline"
    ]
    cost = winner.facts["cost"]
    rows += [("parameters", f"{cost['params']:,}"), ("FLOPs of one example", f"{cost['flops']:,}")]
    table = "".join(f"| {what} | {value} |\n" for what, value in rows)
    return (
        f"## Metrics\n\nThe metric is {metric}, {better} is better; ± is a standard error.\n\n"
        f"| what | value |\n|---|---|\n{table}"
    ).rstrip()


def _estimate(found: Estimate | None, digits: int, sign: str = "") -> str:
    if found is None:
        return "not known"
    return f"{found.value:{sign}.{digits}f}" + (f" ± {found.error:.{digits}f}" if found.error is not None else "")


def _data(store: Store, made: Board, winner: "Winner", config: Mapping[str, Any]) -> str:
    assert winner.seed.test is not None, "a seed without a test score was chosen"
    known = store.data_known() or {}
    counts = [f"{known[name]:,} of {name}" for name in ("train", "validation") if name in known]
    counts.append(f"{winner.seed.test['examples']:,} of test")
    looked = made.accesses.get("test", 0)
    return (
        f"## Data\n\n`{made.config['space_name']}` version {made.config['space_version']}: examples "
        f"{', '.join(counts)}. The search chose by the\nvalidation split; the test split was kept from it and opened "
        f"at the confirmation, where this run scored {looked:,} trainings\non it, once each. "
        f"`{config['evaluation']['file']}`, where it is in this folder, is that split as arrays `inputs` and\n"
        f"`targets`, made by the space{', one task after the other' if config['evaluation']['tasks'] else ''}."
    )


def _training(config: Mapping[str, Any]) -> str:
    told = config["training"]
    numbers = ", ".join(f"{key} {value:.4g}" for key, value in sorted(told.items()) if key in ("lr", "wd"))
    machine = config["machine"]
    versions = ", ".join(f"{name} {config['versions'][name]}" for name in ("jax", "flax", "optax"))
    return (
        f"## Training\n\n{told['steps']:,} steps of {told['batch']:,} examples, {numbers}, warmup {told['warmup']:,}, "
        f"seed {told['seed']};\n{told['optimizer']}.\nRunning statistics, where there are any, were collected at those "
        f"weights.\nOn: {_quiet(machine.get('processor', 'unknown processor'))}, "
        f"{_quiet(machine.get('system', 'unknown system'))}, {versions}."
    )


def _lineage(records: Records, entry: Entry) -> str:
    """The candidate and its first parents, the youngest first."""
    entries = {one.candidate.id: one for one in records.entries}
    best: dict[int, tuple[int, float]] = {}
    candidates = {trial.id: trial.candidate for trial in records.trials}
    for score in records.scores:
        if score.point is not None and score.trial in candidates:
            height = (score.rung, records.sign * score.point.score)
            best[candidates[score.trial]] = max(best.get(candidates[score.trial], height), height)
    rows, seen, at = [], set[int](), entry.candidate.id
    while at in entries and at not in seen:
        seen.add(at)
        one = entries[at].candidate
        rung, score = best.get(at, (-1, 0.0))
        digits = records.config["decimals"]
        told = f"{records.sign * score:.{digits}f} at {records.config['ladder']['steps'][rung]:,}" if rung >= 0 else "–"
        parents = " ".join(map(str, one.parents)) or "–"
        rows.append(f"| {at} | {_quiet(one.arm)} | {_quiet(one.operator) or '–'} | {parents} | {told} |\n")
        at = one.parents[0] if one.parents else 0
    table = "| id | written by | how | parents | best search score at steps |\n|---|---|---|---|---|\n"
    return f"From the candidate back through its first parents.\n\n{table}{''.join(rows)}".rstrip()


def _cost(made: Board) -> str:
    spent = f"{made.spent:,} candidates and {made.trials:,} trials took {duration(made.cpu_s)} of processor time"
    money = made.spending
    dollars = f", and ${money.total_usd:.2f} for a model" if money is not None and money.total_usd else ""
    return f"## Cost of the search\n\n{spent}{dollars}, the confirmation apart."


def _locks(records: Records) -> str:
    told = locks(records.config, records.messages)
    return _quiet(told) if told else "not recorded, by an earlier version"


def _limits(records: Records, made: Board, winner: "Winner", config: Mapping[str, Any]) -> Sequence[str]:
    belief, digits = winner.confirmed.belief, made.config["decimals"]
    scores = [row.test["score"] for row in winner.trained if row.test]
    word = claim(belief)
    told = (
        "It is claimed to be better than every baseline of this space, and than nothing else."
        if word == "yes"
        else f"It is **not** claimed to be better than the baselines ({word})."
    )
    sign = 1 if made.config["maximize"] else -1
    scored = [row for row in winner.trained if row.point is not None]
    best = max(scored, key=lambda row: sign * row.point.score if row.point else 0.0)
    chosen = ", the best on validation" if best.place == winner.seed.place else ""
    failed = f"; {belief.failed} more failed" if belief.failed else ""
    return [
        told,
        f"The weights are of fresh seed {winner.seed.place}{chosen}. Seeds scored {min(scores):.{digits}f} to "
        f"{max(scores):.{digits}f} on test{failed}: expect the mean, not the best.",
        "It was trained and scored on this data alone; nothing is known of other data, of shifted inputs or of harm.",
        "Whoever has the test split can tune on it; then its score says nothing any more.",
        "The score is reproduced to 1e-6 on a processor of this kind with these versions; elsewhere the last bits of "
        f"outputs differ, and single examples of {config['evaluation']['examples']:,} may fall to the other side.",
        "The source was written by a program or a language model and passed a check of what it may call; read it "
        "before you rely on it.",
        f"Locks of the processes that ran sources while it was searched for (--sandbox): {_locks(records)}.",
        "No licence is given here, since nobody has chosen one: set `license` above before you publish.",
    ]


# ---- text


def _block(text: str) -> str:
    """Text as a code block."""
    return indent("\n".join(one_line(line) for line in text.splitlines()), "    ", lambda line: True)


def _quiet(text: str) -> str:
    """Text on one line without markup of its own."""
    return re.sub(r"[\\`*_\[\]<>|~&@]", " ", one_line(text)).strip()
