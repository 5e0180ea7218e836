"""Runs to show, written through the store as a search writes them: plausible, odd, hostile, and large."""

import contextlib
import itertools
import random
import re
import shutil
import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import event

from nas.judge.rungs import normal_scores
from nas.llm import Reply, Request, Role, Usage
from nas.llm.transcript import Transcript
from nas.records import Candidate, Choice, Failure, Point, Retraining, Trial
from nas.standings import rank, read
from nas.store import Entry, Score, Store, Task

STEPS = (250, 1000, 4000)
CONFIG: dict[str, Any] = {
    "space": "mnist1d", "space_name": "mnist1d", "space_version": 1, "metric": "accuracy", "maximize": True,
    "decimals": 4, "ladder": {"steps": list(STEPS), "eta": 4, "draws": 3}, "budget": 24, "seed": 0, "lookahead": 16,
    "order": "slots", "baseline_seeds": 3, "versions": {"jax": "0.10.2"}, "created": "20261120-120000",
    "machine": {"system": "Linux x86_64", "processor": "a processor", "workers": 2},
    "model": {"model": "a-model", "max_usd": "5", "max_calls": None},
}  # fmt: skip
HOSTILE = (
    "</script><img src=x onerror=alert(1)><!--<script>\x1b[31m`rm` [x](http://evil.example)\u202e\x00 & <b>bold</b>"
)
UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]")
"""What no text may hold that is printed."""
SOURCE = '''"""{idea}"""
from nas.api import jax, jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.embed = nnx.Linear(spec.channels, spec.width, rngs=rngs)
        self.blocks = nnx.List(
            nnx.Conv(spec.width, {grow} * spec.width, ({kernel},), kernel_dilation=({grow}**i,), rngs=rngs)
            for i in range({depth})
        )
        self.head = nnx.Linear(spec.width, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x)
        for conv in self.blocks:
            value, gate = jnp.split(conv(h), 2, axis=-1)
            h = h + value * jax.nn.{gate}(gate)
        # {note}
        return self.head(h.mean(axis=1))
'''
IDEAS = (
    "Gated dilated convolutions: the whole series in view for a third of the parameters.",
    "Two branches of different stride, joined by their product, so that slow and fast structure meet late.",
    "Random: patches, strided_convolution, segments.",
    "A bank of learnt templates; each answers with the place where it fits best, and how well.",
)
DIVERGED = Failure(stage="train", rule="diverged", message="the loss is not finite after step 120; lower the scale")
REJECTED = (
    Failure(stage="program", rule="flops", message="17,803 FLOPs for one example; the space allows 12,000"),
    Failure(stage="trace", rule="shape", line=7, message=f"output is (40, 10), expected (10,); {HOSTILE}"),
    Failure(stage="gate", rule="import", line=2, message="import of os is not allowed; remove it"),
    Failure(stage="duplicate", rule="duplicate", message="the same program as candidate 3; change what it computes"),
)


class RunWriter:
    """Writes a run through the store, one task after another.

    Args:
      folder: of the new run.
      hurry: whether to leave out the flushing to disk.
      config: what differs from `CONFIG`.
    """

    def __init__(self, folder: Path, *, hurry: bool = False, **config: Any) -> None:
        self.store = Store.create(folder, CONFIG | {"name": folder.name} | config)
        if hurry:
            event.listen(self.store.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF"))
            self.store.engine.dispose()
        self.slot = -1
        self.candidates = self.trials = 0
        self.known: dict[int, tuple[int, int]] = {}

    def begin(self, kind: str, candidate: int, decision: dict[str, Any] | None = None, **records: Any) -> int:
        self.slot += 1
        task = Task(slot=self.slot, kind=kind, candidate=candidate, decision=decision or {})
        self.store.begin(task, **records)
        return self.slot

    def finish(
        self, slot: int, scores: Sequence[Score] = (), spent: Sequence[tuple[Role, Decimal]] = (), **outcome: Any
    ) -> None:
        stages = (
            {"trainer": 2.5, "compile": 0.7, "train": 1.1, "evaluate": 0.4} if scores else {"trace": 0.4, "check": 0.1}
        )
        usage: dict[str, Any] = {"cpu_s": 2.5, "wall_s": 3.0, "peak_bytes": 10**8, "stages": stages}
        if scores:
            usage |= {"step_s": 1e-4 * (2 + slot % 7), "device": "a processor"}
        for number, (role, usd) in enumerate(spent):
            self._call(f"{slot}.{number}", role, usd)
        plain = [{"role": role, "usd": str(usd)} for role, usd in spent]
        self.store.finish(slot, outcome, usage | ({"calls": plain} if spent else {}), scores)

    def _call(self, ident: str, role: Role, usd: Decimal) -> None:
        """A call of a model, in the transcript."""
        request = Request(id=ident, role=role, model="a-model", system=(), messages=[("user", ident)], max_tokens=1000)
        usage = Usage(input_tokens=1100, cache_read_tokens=4100, output_tokens=900)
        transcript = Transcript(self.store.folder / "transcript", clock=lambda: 0.0)
        transcript.folder.mkdir(exist_ok=True)
        transcript.record(request, Reply(outcome="ok", usage=usage, model="a-model", attempts=1), usd)

    def propose(
        self, arm: str, *, operator: str = "insert convolution", idea: str = IDEAS[0], parents: tuple[int, ...] = (),
        failure: Failure | None = None, source: str | None = None, params: int = 700, kind: str = "admit",
        verdict: bool = True, spent: Sequence[tuple[Role, Decimal]] = (), **outcome: Any,
    ) -> int:  # fmt: skip
        """A proposal and, unless `verdict` is false, its admission."""
        self.candidates += 1
        number = self.candidates
        written = source or SOURCE.format(
            idea=idea.replace('"', "'"), grow=2 + number % 2, kernel=3 + 2 * (number % 3), depth=2 + number % 4,
            gate=("sigmoid", "tanh", "silu")[number % 3], note=f"number {number}, " + "more and " * (number % 9),
        )  # fmt: skip
        tunables = {"kernel": Choice((3, 5))} if arm == "claude" else {}
        candidate = Candidate(
            id=number, source=written, idea=idea, arm=arm, operator=operator, parents=parents, tunables=tunables
        )
        entry = Entry(candidate=candidate, slot=self.slot + 1, failure=None, program=None)
        slot = self.begin(kind, number, candidates=[entry])
        if verdict:
            made = [
                {"id": f"c{slot}-{n}", "role": one[0], "model": "a-model", "outcome": "ok"}
                for n, one in enumerate(spent)
            ]
            self.finish(slot, spent=spent, calls=made, **outcome)
            cost = {
                "params": params,
                "flops": 37 * params,
                "train_flops": 111 * params,
                "memory_bytes": 900 * params,
                "ops": 321,
            }
            facts = {"digest": f"d{number}", "fingerprint": f"{number:064x}", "param_leaves": 4, "cost": cost,
                     "traits": ["convolution"], "profile": {"convolution": 0.7, "matmul": 0.3}, "plan": {}}  # fmt: skip
            self.store.admit(number, failure, None if failure else facts)
        return number

    def draw(
        self, candidate: int, arm: str, levels: Sequence[float | Failure | None], *, lr: Sequence[float] = (),
        seed: int = 0, kind: str = "first",
    ) -> list[int]:  # fmt: skip
        """Trials of one candidate with their scores at the first rung; None is one that still runs."""
        trials = []
        for index in range(len(levels)):
            self.trials += 1
            recipe = {"lr": lr[index] if lr else 0.02, "wd": 0.001}
            trials.append(
                Trial(id=self.trials, candidate=candidate, arm=arm, values={}, recipe=recipe, seed=seed or self.trials)
            )
        slot = self.begin(kind, candidate, {"tune": False, "trials": [t.id for t in trials]}, trials=trials)
        if None not in levels:
            self.finish(slot, [score(t.id, 0, slot, level) for t, level in zip(trials, levels, strict=True)])
        return [trial.id for trial in trials]

    def promote(self, trial: int, candidate: int, rung: int, level: float | Failure | None, **decision: Any) -> None:
        slot = self.begin("promote", candidate, {"trial": trial, "rung": rung} | decision)
        if level is not None:
            self.finish(slot, [score(trial, rung, slot, level)])

    def baseline(self, name: str, level: float, rng: random.Random, seeds: int = 3) -> int:
        """A baseline with as many seeds at every rung."""
        number = self.propose("baseline", operator=name, idea=f"The baseline {name}.", params=900, kind="baseline")
        for seed in range(seeds):
            self.trials += 1
            trial = Trial(
                id=self.trials, candidate=number, arm="baseline", values={}, recipe={"lr": 0.03, "wd": 0.001}, seed=seed
            )
            slot = self.begin("baseline", number, trials=[trial])
            levels = [level - 0.06 * (2 - rung) + rng.gauss(0, 0.006) for rung in range(3)]
            self.finish(slot, [score(trial.id, rung, slot, at) for rung, at in enumerate(levels)])
        return number


def score(trial: int, rung: int, slot: int, level: float | Failure | None) -> Score:
    if isinstance(level, Failure):
        return Score(trial=trial, rung=rung, slot=slot, point=None, failure=level)
    assert level is not None
    point = Point(step=STEPS[rung], train_loss=1.2 - level, loss=1.1 - level, score=round(level, 4))
    count = (5, 15, 60)[rung]
    losses = [2.3 * (1 - level) + 0.9 / (1 + i) + 0.4 * (2 - rung) for i in range(count)]
    return Score(trial=trial, rung=rung, slot=slot, point=point, failure=None, losses=losses)


Spent = Sequence[tuple[Role, Decimal]]
WRITTEN: Spent = [("propose", Decimal("0.0123"))]
REPAIRED: Spent = [*WRITTEN, ("repair", Decimal("0.0081"))]
FORECAST: Spent = [("forecast", Decimal("0.0041"))]


def write_search(folder: Path, candidates: int, *, hurry: bool = True, model: bool = True, **config: Any) -> Store:
    """A whole search: baselines, arms, rejections, promotions with forecasts, lineage, failures, hostile text."""
    rng = random.Random(7)
    writer = RunWriter(folder, hurry=hurry, budget=candidates, **config)
    for name, level in (("linear", 0.33), ("mlp", 0.7), ("cnn", 0.85), ("gru", 0.83)):
        writer.baseline(name, level, rng)
    quality = {number: 0.5 for number in range(1, 5)}
    waiting: list[list[tuple[int, int, float]]] = [[], []]
    arms = ("random", "evolution", "evolution", *(("claude", "claude", "claude_blind") if model else ()))
    for number in range(candidates):
        arm = arms[number % len(arms)]
        scored = sorted(quality, key=lambda c: -quality[c])[: max(6, len(quality) // 4)]
        parents = () if arm in ("random", "claude_blind") else tuple(rng.sample(scored, 2 if number % 7 == 0 else 1))
        if number % 4 == 1:
            writer.propose(arm, parents=parents, failure=REJECTED[number // 4 % 4], idea=IDEAS[number % 4])
        asked = arm in ("claude", "claude_blind")
        spent = [] if not asked else REPAIRED if number % 5 == 0 else WRITTEN
        told: dict[str, Any] = {}
        if spent:
            told["claims"] = {"hypothesis": "Wider views help.", "refuted_by": HOSTILE}
            told["drafts"] = [{"source": "x", "failure": {"stage": "gate", "rule": "import", "message": "no os"}}]
        ident = writer.propose(
            arm, operator=f"change {number}: {('kernel', 'gate', 'depth')[number % 3]}", parents=parents, spent=spent,
            idea=HOSTILE if number == 3 else IDEAS[number % 4], params=int(120 * 2 ** rng.uniform(0, 4.5)), **told,
        )  # fmt: skip
        start = max(quality[p] for p in parents) if parents else rng.uniform(0.35, 0.75)
        quality[ident] = max(0.12, start + (0.95 - start) * rng.gauss(-0.06, 0.22))
        draws: list[float | Failure | None] = [quality[ident] - abs(rng.gauss(0, 0.03)) for _ in range(3)]
        if number % 23 == 11:
            draws[1] = DIVERGED
        trials = writer.draw(ident, arm, draws, lr=[10 ** rng.uniform(-3, -1) for _ in range(3)])
        waiting[0] += [(t, ident, d) for t, d in zip(trials, draws, strict=True) if isinstance(d, float)]
        for rung in (0, 1):
            if len(waiting[rung]) >= 8:
                _promote(writer, waiting, rung, rng, forecasts=model)
    return writer.store


def write_confirmation(store: Store, finalists: int = 5) -> None:
    """Train the best candidates and all baselines again, and score them on a test split of 400 examples."""
    rng = np.random.default_rng(0)
    records = read(store)
    rows = rank(records)
    values = {trial.id: trial.values for trial in records.trials}
    cost = {entry.candidate.id: (entry.program or {})["cost"] for entry in records.entries if entry.program}
    ours = [row for row in rows if row.arm != "baseline"][:finalists]
    for row in [one for one in rows if one.arm == "baseline"] + ours:
        again = []
        for place in range(10 if row.arm == "baseline" else 5):
            level = row.score - 0.01 + 0.004 * rng.normal()
            curve = [(STEPS[-1] * part // 8, level - 0.3 / part + 0.3 / 8) for part in (1, 2, 4, 6, 8)]
            path = store.test_path(row.candidate, place)
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(path, scores=(rng.random(400) < level).astype(np.float32))
            point = Point(step=STEPS[-1], train_loss=0.1, loss=0.1, score=level)
            usage = {"cpu_s": 2.0, "wall_s": 2.5, "step_s": 1.5e-4, "inference_s": 2e-7, "device": "a processor"}
            again.append(Retraining(
                candidate=row.candidate, purpose="seeds", place=place, rung=2, values=values[row.trial],
                recipe={"lr": 0.02, "wd": 0.001}, seed=place, point=point, curve=curve, cost=cost[row.candidate],
                test={"score": level, "loss": 0.1, "examples": 400}, usage=usage,
            ))  # fmt: skip
        store.retrain(again)


def _promote(
    writer: RunWriter, waiting: list[list[tuple[int, int, float]]], rung: int, rng: random.Random, *, forecasts: bool
) -> None:
    """Send the best two of eight on, by rank or by forecast."""
    ranked = sorted(waiting[rung], key=lambda one: -one[2])
    z = normal_scores([one[2] for one in ranked], True)
    if forecasts:
        slot = writer.begin("forecast", 0, {"rung": rung, "trials": [one[0] for one in ranked]})
        told = {
            str(one[0]): {"probability": round(0.25 + 0.06 * i, 2), "why": "It learns late."}
            for i, one in enumerate(ranked[::-1])
        }
        made = [{"id": f"f{slot}", "role": "forecast", "model": "a-model", "outcome": "ok"}]
        writer.finish(slot, spent=FORECAST, calls=made, forecasts=told)
    for index in range(2):
        trial, candidate, level = ranked[index]
        choice = {"trial": trial, "why": ("rank", "model", "random")[rng.randrange(3)], "displaced": None,
                  "probability": 1.0, "z": z[index], "x": rng.uniform(-2, 2) if forecasts else None}  # fmt: skip
        reached = DIVERGED if rng.random() < 0.04 else level + (1 - level) * rng.uniform(0.1, 0.4)
        writer.promote(trial, candidate, rung + 1, reached, choice=choice)
        if rung == 0 and isinstance(reached, float):
            waiting[1].append((trial, candidate, reached))
    waiting[rung] = []


def with_hostile_names(run: Path, folder: Path) -> Path:
    """A copy of a run in which whoever wrote the candidates meant harm."""
    shutil.copytree(run, folder)
    with contextlib.closing(sqlite3.connect(folder / "run.db")) as connection, connection:
        connection.execute("UPDATE nas_candidate SET idea = ? || id, operator = ? || id", (HOSTILE, HOSTILE))
    return folder


def assert_harmless_markdown(text: str) -> None:
    """No markup, link or line but those of the table itself."""
    assert not UNPRINTABLE.search(text)
    assert "<img" not in text and "http://" not in text and not re.search(r"(?<!\\)[`\[]", text.replace("\\\\", ""))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for row, following in itertools.pairwise(rows):
        if row.startswith(("|:--", "|--:")):
            columns = row.count("|")
            assert len(re.findall(r"(?<!\\)\|", following)) == columns
