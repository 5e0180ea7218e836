"""A byte transformer's training step behind the wall, by hand, and in PyTorch: `python -m benchmarks.language_model`.

The mixer baseline `attention` of byte_lm at its CPU size. The engine's step comes out of a traced, exported and checked
program, the trainer's own kernels put in, and runs by the plan that a search would choose. The one by hand is the same
model as a plain function of the parameters in `jnp`, differentiated by `jax.grad`; optimiser, loss, batches, first
parameters, compile options, donation and driver are the engine's. That both have the same losses is checked first.

Where PyTorch can be imported the same sizes run in it too, eagerly, with its own attention, norm, cross entropy and
fused AdamW on the same batches: its losses are checked at the first parameters, and must fall. Its optimiser is a
little less work, having no average of the parameters. It is no dependency of the project; `pip install torch` brings
it, and a folder of its own (`pip install --target FOLDER torch`, `PYTHONPATH=FOLDER`) keeps the versions apart.

One thread each, as in a trial. Sides take turns and ratios are those of neighbouring turns, so that what slows the
machine down slows both.
"""

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import report
from nas.admit import Admitted, admit, drive
from nas.admit.gate import check
from nas.execute.local import LocalExecutor
from nas.flows import preload
from nas.records import defaults
from nas.space import SearchSpace, Spec, Split, load
from nas.train.engine import Engine, plan, rows_for

SPACE = "byte_lm"
BASELINE = "attention"
TARGETS = {"by hand": 1.05, "torch": 1.0}
"""Engine's CPU time a step as a multiple of the other side's, at most."""
NUMBERS = {"lr": 0.01, "wd": 0.01, "seed": 1}
AGREE_STEPS = 50
AGREE = 1e-3
"""Steps after which the mean losses may differ by this share at most; rounding grows from step to step."""
AGREE_FIRST = 1e-4
"""The same of the losses before the first step."""
EPSILON = 1e-6
"""Added to the mean square in a norm."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; returns 0 whether the targets are reached or not."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.language_model", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--repeats", type=int, default=9, help="turns of each side (9)")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a turn lasts (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    os.environ.setdefault("NPROC", "1")
    os.environ["JAX_PLATFORMS"] = "cpu"
    space = load(SPACE)
    sides = _sides(space, _admitted(space))
    draw = functools.partial(
        rows_for, NUMBERS["seed"], count=len(space.task.split("train").inputs), batch=space.recipe.batch
    )
    found = compare(sides, draw, parsed.repeats, parsed.seconds)
    columns = ["side", "CPU ms a step", "wall ms", "engine / it, CPU", "middle half", "wall", "at most", "reached"]
    print(report.table(columns, [_row(name, found[name]) for name in sides]))
    if "torch" not in sides:
        print("PyTorch cannot be imported and was not measured; `pip install torch` brings it.")
    if parsed.json:
        settings = {
            "space": SPACE,
            "baseline": BASELINE,
            "repeats": parsed.repeats,
            "seconds": parsed.seconds,
            "targets": TARGETS,
            "nproc": os.environ["NPROC"],
            "torch": importlib.metadata.version("torch") if "torch" in sides else None,
        }
        report.write(parsed.json, "language_model", settings, found)
    return 0


def _row(name: str, found: dict[str, Any]) -> list[Any]:
    row = [name, found["cpu_ms"]["median"], found["wall_ms"]["median"]]
    if "cpu_ratio" not in found:
        return [*row, *[None] * 5]
    ratio = found["cpu_ratio"]
    half = "{:.2f} … {:.2f}".format(*ratio["quartiles"])
    reached = "yes" if ratio["median"] <= TARGETS[name] else "no"
    return [*row, ratio["median"], half, found["wall_ratio"]["median"], TARGETS[name], reached]


class Side(Protocol):
    """One implementation of the step, somewhere in its training.

    Attributes:
      chunk: `run` takes a multiple of so many steps.
    """

    chunk: int

    def run(self, rows: np.ndarray) -> float:
        """Train on these examples [steps, batch]; returns the mean loss of the steps."""
        ...


def compare(
    sides: dict[str, Side], draw: Callable[[int, int], np.ndarray], repeats: int, seconds: float
) -> dict[str, Any]:
    """Milliseconds a step on every side, and the first one's as a multiple of each other's, turn by turn.

    Args:
      sides: by name; the first is what is asked about.
      draw: (start, stop) to the examples of those steps [stop - start, batch].
      repeats: turns of each.
      seconds: about how long a turn lasts [s].
    """
    first, chunk = next(iter(sides)), max(side.chunk for side in sides.values())
    for side in sides.values():
        side.run(draw(0, chunk))
    milliseconds = max(1e-3, _timed(sides[first], draw(chunk, 3 * chunk))[0])
    steps = chunk * max(1, round(1e3 * seconds / milliseconds / chunk))
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for repeat in range(repeats):
        rows = draw(repeat * steps, (repeat + 1) * steps)
        for name in list(sides) if repeat % 2 else reversed(list(sides)):
            measured[name].append(_timed(sides[name], rows))
    found: dict[str, Any] = {"steps_a_turn": steps}
    for name, turns in measured.items():
        found[name] = {}
        for index, kind in enumerate(("cpu", "wall")):
            found[name][f"{kind}_ms"] = report.spread([turn[index] for turn in turns])._asdict()
            if name != first:
                ratios = [one[index] / other[index] for one, other in zip(measured[first], turns, strict=True)]
                quartiles = statistics.quantiles(ratios, n=4)[::2] if repeats > 1 else 2 * ratios
                found[name][f"{kind}_ratio"] = report.spread(ratios)._asdict() | {"quartiles": quartiles}
    return found


def _timed(side: Side, rows: np.ndarray) -> tuple[float, float]:
    """CPU and wall milliseconds a step."""
    cpu, wall = time.process_time(), time.perf_counter()
    side.run(rows)
    return 1e3 * (time.process_time() - cpu) / len(rows), 1e3 * (time.perf_counter() - wall) / len(rows)


def _admitted(space: SearchSpace) -> Admitted:
    """The baseline, taken through the door that every candidate takes.

    Raises:
      ValueError: it was rejected; the message says why.
    """
    source = space.baselines[BASELINE]
    gated = check(source, space.scope)
    with LocalExecutor(workers=1, preload=preload(space)) as executor:
        found = drive(executor, admit(SPACE, source, defaults(gated.tunables), tag=BASELINE))
    if not isinstance(found, Admitted):
        raise ValueError(f"baseline '{BASELINE}': {found}")
    return found


def _sides(space: SearchSpace, admitted: Admitted) -> dict[str, Side]:
    """The implementations by name, checked to be one network.

    Raises:
      AssertionError: they are not.
    """
    facts = admitted.facts
    train, validation = (space.task.split(split) for split in ("train", "validation"))
    how = plan(frozenset(facts["traits"]), facts["cost"]["flops"], space, len(validation.inputs), "cpu")
    arguments = (space, dict(admitted.blobs), facts["param_leaves"], train, validation, how)
    engine = Engine(*arguments)
    sides: dict[str, Side] = {"engine": _OfEngine(engine), "by hand": _OfEngine(_ByHand(*arguments))}
    rows = rows_for(NUMBERS["seed"], 0, max(AGREE_STEPS, how.chunk), len(train.inputs), space.recipe.batch)
    losses = {name: side.run(rows) for name, side in sides.items()}
    assert _near(losses["engine"], losses["by hand"], AGREE), f"mean losses {losses} are not those of one network"
    if importlib.util.find_spec("torch") is None:
        return sides
    params, batch = engine.init(NUMBERS["seed"])[0], rows[0]
    expected = float(space.task.loss(outputs(params, train.inputs[batch], space.spec), train.targets[batch]).mean())
    torch = Torch(space.spec, params, train)
    assert _near(torch.loss(batch), expected, AGREE_FIRST), "torch computes another loss at the same parameters"
    assert torch.run(rows) < 0.9 * expected, "torch's loss does not fall"
    return sides | {"torch": torch}


def _near(one: float, other: float, share: float) -> bool:
    return abs(one - other) <= share * abs(other)


class _OfEngine:
    """The step of an engine by its plan, with the rows drawn beforehand."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.chunk = engine, engine.how.chunk
        (self.carry,) = engine.placed([(*engine.init(NUMBERS["seed"]), np.uint32(0))])
        self.executable = engine.compiled_step(self.carry)
        self.numbers = (np.float32(NUMBERS["lr"]), np.float32(NUMBERS["wd"]), np.uint32(NUMBERS["seed"]))

    def run(self, rows: np.ndarray) -> float:
        calls = rows.reshape(-1, self.chunk, rows.shape[1]) if self.engine.how.mode == "scan" else rows
        losses, carry = [], self.carry
        for call in calls:
            carry, loss = self.executable(carry, self.numbers, self.engine.data, call)
            losses.append(loss)
        self.carry = carry  # the arrays that it held were given away
        return float(np.mean([float(loss) for loss in losses]))


class _ByHand(Engine):
    """The engine with a step that knows the network instead of an exported program."""

    def step_function(self) -> Any:
        import jax
        import jax.numpy as jnp
        import optax

        task, spec = self.space.task, self.space.spec

        def step(carry: Any, numbers: Any, data: Any, rows: Any) -> Any:
            params, state, opt, count = carry
            lr, wd, _ = numbers
            x, y = data[0][rows], data[1][rows]
            loss, grads = jax.value_and_grad(lambda params: task.loss(outputs(params, x, spec), y).mean())(params)
            updates, opt = self.optimizer(lr, wd).update(grads, opt, params)
            return (optax.apply_updates(params, updates), state, opt, count + jnp.uint32(1)), loss

        return step


ARRAYS = 9
"""Arrays of a layer, which come by the names of its attributes: mixer, its norm, MLP, its norm."""


def outputs(params: Sequence[Any], tokens: Any, spec: Spec) -> Any:
    """Logits (B, T, V) of tokens (B, T): the transformer as one writes it in `jnp`.

    Args:
      params: in the order of the program, which is that of the attributes' names: embedding, layers, last norm.
      tokens: int32.
      spec: sizes.
    """
    import jax
    import jax.numpy as jnp

    embedding, *layers, last = params
    B, T = tokens.shape
    cos, sin = (jnp.asarray(array) for array in angles(spec))
    seen = jnp.tril(jnp.ones((T, T), bool))

    def norm(x: Any, scale: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON) * scale

    def heads(x: Any) -> Any:
        return x.reshape(B, T, spec.heads, -1)

    def turned(x: Any) -> Any:
        first, second = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)

    h = embedding[tokens] * spec.width**0.5
    for index in range(0, len(layers), ARRAYS):
        key, out, query, value, mixer_scale, down, gate, up, mlp_scale = layers[index : index + ARRAYS]
        x = norm(h, mixer_scale)
        q, k, v = turned(heads(x @ query)), turned(heads(x @ key)), heads(x @ value)
        scores = jnp.einsum("bthk,bshk->bhts", q, k) * q.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        h = h + jnp.einsum("bhts,bshv->bthv", weights, v).reshape(B, T, -1) @ out
        x = norm(h, mlp_scale)
        h = h + (jax.nn.silu(x @ gate) * (x @ up)) @ down
    return norm(h, last) @ embedding.T


def angles(spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine (T, 1, K/2) of rotary positions, float32."""
    half = spec.width // spec.heads // 2
    angle = np.arange(spec.length)[:, None, None] * 10_000.0 ** (-np.arange(half) / half)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


class Torch:
    """The same network in PyTorch, eager, with its fused operations, on one thread."""

    chunk = 1

    def __init__(self, spec: Spec, params: Sequence[Any], train: Split) -> None:
        # By name, since the project does not depend on it.
        self.torch: Any = importlib.import_module("torch")
        self.functional: Any = importlib.import_module("torch.nn.functional")
        self.torch.set_num_threads(1)
        self.spec, self.data = spec, [self._tensor(array).long() for array in train]
        self.cos, self.sin = (self._tensor(array) for array in angles(spec))
        # Its linear layers have matrices (out, in); ours are (in, out), but for the embedding.
        matrices = [self._tensor(leaf if index == 0 else np.asarray(leaf).T) for index, leaf in enumerate(params)]
        self.params = [matrix.clone().contiguous().requires_grad_() for matrix in matrices]
        lr, wd = NUMBERS["lr"], NUMBERS["wd"]
        self.optimizer = self.torch.optim.AdamW(self.params, lr=lr, weight_decay=wd, fused=True)

    def run(self, rows: np.ndarray) -> float:
        losses = []
        for batch in self.torch.from_numpy(rows).long():
            self.optimizer.zero_grad(set_to_none=True)
            loss = self._loss(batch)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return float(self.torch.stack(losses).mean())

    def loss(self, batch: np.ndarray) -> float:
        """The mean loss of a batch at the parameters as they are."""
        with self.torch.no_grad():
            return float(self._loss(self.torch.from_numpy(batch).long()))

    def _tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(np.array(array))

    def _loss(self, batch: Any) -> Any:
        x, y = (array[batch] for array in self.data)
        return self.functional.cross_entropy(self._outputs(x).flatten(0, 1), y.flatten())

    def _outputs(self, tokens: Any) -> Any:
        embedding, *layers, last = self.params
        F, (B, T), D = self.functional, tokens.shape, self.spec.width

        def norm(x: Any, scale: Any) -> Any:
            return F.rms_norm(x, (D,), scale, EPSILON)

        def heads(x: Any) -> Any:
            return x.view(B, T, self.spec.heads, -1)

        h = F.embedding(tokens, embedding) * D**0.5
        for index in range(0, len(layers), ARRAYS):
            key, out, query, value, mixer_scale, down, gate, up, mlp_scale = layers[index : index + ARRAYS]
            x = norm(h, mixer_scale)
            q, k = (self._turned(heads(F.linear(x, matrix))).transpose(1, 2) for matrix in (query, key))
            v = heads(F.linear(x, value)).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + F.linear(mixed.transpose(1, 2).reshape(B, T, D), out)
            x = norm(h, mlp_scale)
            h = h + F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)
        return F.linear(norm(h, last), embedding)

    def _turned(self, x: Any) -> Any:
        first, second = x.chunk(2, dim=-1)
        turned = (first * self.cos - second * self.sin, first * self.sin + second * self.cos)
        return self.torch.cat(turned, dim=-1)


if __name__ == "__main__":
    raise SystemExit(main())
