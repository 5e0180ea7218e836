"""Train an exported program to a rung, for one or several draws of hyperparameters, and score it on validation.

Learning rate, weight decay and seed are arguments of the compiled step, so that one executable serves every draw,
seed and rung of a program. The engine joins the program's forward and backward, adds the space's loss, and owns the
optimiser; it holds no candidate Python. Training resumed from a checkpoint is bit-identical to training that never
stopped.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nas.admit.leaks import Leak, compiled, other_program, rounds_far, starts, thinning, tolerance_of, unseen
from nas.space import SearchSpace, Split

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a program is run. Bits depend on it, so it is decided once for a program and recorded.

    Attributes:
      mode: `scan` runs a chunk of steps in one call; `loop` calls one step at a time from Python.
      chunk: steps in a call, in `scan` mode.
      train_level: XLA's backend optimisation level of the training step.
      eval_level: the same of the evaluation.
      fusion_emitters: XLA's CPU fusion emitters, which make a step faster and its compilation slower.
    """

    mode: str
    chunk: int
    train_level: int | None
    eval_level: int | None
    fusion_emitters: bool


SHORT_RUNG = 500
"""Training steps of the first rung up to which a cheaper compilation pays for a slower step."""
CALIBRATION = 100
"""Training batches on which running statistics are collected before an evaluation."""
SMALL_EVALUATION = 2e9
"""FLOPs of one evaluation up to which compiling it without optimisation is cheaper."""
TIMED = 4
"""Chunks of each training that are waited for and timed; the fastest counts, since whatever disturbs makes slower."""
CONSISTENT_RMS = 0.2
"""Root mean square of an update of Muon, like AdamW's (arXiv 2502.16982), so that one rate serves both."""
TIMED_INFERENCES = 10
"""Batches of which the fastest says how long an inference takes."""
LEAK_SHARE = 0.01
"""Work on looking for leaks at trained parameters, in units of that on the training before."""
TRAINING_PASSES = 3
"""Forward passes that a training step costs, about."""
MOST_LEAK_CALLS = 16
"""Batches that are evaluated for leaks at most, whose outputs are compared on the host."""


class Scored(NamedTuple):
    """What an evaluation says: mean loss, mean score, and the outputs for its first batch, on the device."""

    loss: float
    score: float
    first: Any


def plan(traits: frozenset[str], flops: int, space: SearchSpace, examples: int, platform: str) -> Plan:
    """Decide how to run a program, from what it contains and how long it will run.

    On the CPU backend a convolution inside `lax.scan` is 6 to 11 times slower than outside it, so such a program is
    stepped from Python; everything else, and every accelerator, scans. The options are worth having on CPU only.

    Args:
      traits: `nas.records.Program.traits`.
      flops: of one inference on one example.
      space: gives the ladder.
      examples: in the validation split.
      platform: `cpu`, `cuda` or `tpu`.
    """
    chunk = _chunk(space.ladder.steps)
    if platform != "cpu":
        return Plan(mode="scan", chunk=chunk, train_level=None, eval_level=None, fusion_emitters=True)
    return Plan(
        mode="loop" if "convolution" in traits or chunk < 5 else "scan",
        chunk=chunk,
        train_level=1,
        eval_level=0 if flops * examples <= SMALL_EVALUATION else 1,
        fusion_emitters=space.ladder.steps[0] > SHORT_RUNG,
    )


def _chunk(steps: Sequence[int], most: int = 50) -> int:
    """Largest number of steps up to `most` that divides every rung."""
    common = math.gcd(*steps)
    return max(size for size in range(1, most + 1) if common % size == 0)


class Engine:
    """One program, compiled on demand, over one task's training and validation data.

    Its `step_s` is the time of one training step so far: wall clock, of the fastest chunk that was timed [s].

    A space of several tasks (`Task.parts`) trains the one program on each, with parameters of its own; every method
    that takes a carry takes the task's place too, 0 where there is one task only.

    Args:
      space: gives loss, score, recipe and ladder.
      blobs: the program's artifacts.
      param_leaves: how many of init's outputs are parameters.
      train: training split.
      validation: validation split.
      how: options of execution.
      devices: over how many devices each batch is laid; parameters are on all of them.
      platform: `cpu`, `cuda` or `tpu`: whose kernels are put in; None is where this process runs.
    """

    def __init__(
        self,
        space: SearchSpace,
        blobs: dict[str, bytes],
        param_leaves: int,
        train: Split,
        validation: Split,
        how: Plan,
        devices: int = 1,
        platform: str | None = None,
    ) -> None:
        import jax
        from jax import export

        from nas.kernels import crossing

        self.space, self.how, self.validation = space, how, validation
        self.parts = space.task.parts or ("",)
        kind = platform or crossing.platform()
        self.artifacts = {name: crossing.fill(export.deserialize(bytearray(b)), kind) for name, b in blobs.items()}
        self.param_leaves = param_leaves
        self.count = len(train.inputs) // len(self.parts)
        self._layout = _Layout(devices)
        self.data = self._layout.everywhere((np.asarray(train.inputs), np.asarray(train.targets)))
        self._step: Any = None
        self._evaluate: Any = None
        self._each: Any = None
        self._calibrate: Any = None
        self._double: Any = None
        self._jax = jax
        self.step_s = math.inf

    # The optimiser is made where its numbers are traced, so the learning rate is an argument and not a constant.
    def optimizer(self, lr: "jax.Array | float", wd: "jax.Array | float") -> Any:
        """Schedule-free AdamW or Muon after a linear warmup: no horizon, so a rung is a point on any longer run."""
        import optax
        from optax import contrib

        recipe, spec = self.space.recipe, self.space.spec
        if recipe.optimizer == "adamw":
            return contrib.schedule_free_adamw(lr, warmup_steps=recipe.warmup, weight_decay=wd)
        rising = optax.warmup_constant_schedule(0.0, lr, recipe.warmup)  # type: ignore[arg-type]  # a tracer will do
        ends = {spec.vocab, spec.classes}

        def matrices(params: Any) -> Any:
            which = contrib.MuonDimensionNumbers()
            return self._jax.tree.map(
                lambda leaf: which if leaf.ndim == 2 and not ends & {*leaf.shape} else None, params
            )

        # Both halves without a first moment of their own: the averaging of schedule-free training takes its place.
        base = contrib.muon(
            rising, beta=0.0, nesterov=False, weight_decay=wd, adam_b1=0.0, adam_weight_decay=wd,
            consistent_rms=CONSISTENT_RMS, muon_weight_dimension_numbers=matrices,
        )  # fmt: skip
        return contrib.schedule_free(base, rising, b1=0.9)

    def init(self, seed: int) -> tuple[Any, Any, Any]:
        """Parameters, model state and optimiser state of a fresh trial."""
        from nas.train.interpret import run_once

        leaves = run_once(self.artifacts["init"], [np.asarray(seed, np.uint32)])
        params, state = tuple(leaves[: self.param_leaves]), tuple(leaves[self.param_leaves :])
        return params, state, self._fresh_optimizer(params)

    def placed(self, carries: list[Any]) -> list[Any]:
        """Put trials' carries where they are trained; no array is in two, since steps give theirs away."""
        return [self._layout.everywhere(carry) for carry in carries]

    def template(self) -> Any:
        """Shapes and dtypes of a trial's carry: parameters, model state, optimiser state, step count."""
        avals = [self._jax.ShapeDtypeStruct(a.shape, a.dtype) for a in self.artifacts["init"].out_avals]
        params, state = tuple(avals[: self.param_leaves]), tuple(avals[self.param_leaves :])
        opt = self._jax.eval_shape(self.optimizer(1.0, 0.0).init, params)
        return params, state, opt, self._jax.ShapeDtypeStruct((), np.uint32)

    def _fresh_optimizer(self, params: tuple[np.ndarray, ...]) -> Any:
        """What `optimizer(...).init(params)` gives, for AdamW without compiling a copy for each shape of array."""
        if self.space.recipe.optimizer != "adamw":
            return self.optimizer(1.0, 0.0).init(tuple(self._jax.numpy.asarray(leaf) for leaf in params))
        zeros = self._jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), self.template()[2])
        return zeros._replace(
            b1=np.asarray(0.9, zeros.b1.dtype),
            step_count=np.asarray(1, np.int32),
            z=tuple(np.array(leaf) for leaf in params),
        )

    def _apply(self) -> Any:
        """Forward and backward artifacts, joined into one differentiable function of the parameters."""
        jax = self._jax
        forward, backward = self.artifacts["forward"].call, self.artifacts["backward"].call

        @jax.custom_vjp
        def apply(params: Any, state: Any, x: Any, seed: Any) -> Any:
            output, auxiliary, after, _ = forward(params, state, x, seed)
            return output, auxiliary, after

        def ahead(params: Any, state: Any, x: Any, seed: Any) -> Any:
            output, auxiliary, after, residuals = forward(params, state, x, seed)
            return (output, auxiliary, after), residuals

        def back(residuals: Any, cotangents: Any) -> Any:
            return backward(residuals, cotangents[0], cotangents[1]), None, None, None

        apply.defvjp(ahead, back)
        return apply

    def step_function(self) -> Any:
        """(carry, numbers, data, rows) -> (carry, loss): one training step on the examples `rows`."""
        import jax
        import jax.numpy as jnp
        import optax

        apply, task, recipe, spread = self._apply(), self.space.task, self.space.recipe, self._layout.spread
        bound = recipe.max_auxiliary

        def gradients(params: Any, state: Any, data: Any, rows: Any, key: Any) -> Any:
            x, y = spread(data[0][rows]), spread(data[1][rows])

            def objective(params: Any) -> Any:
                output, auxiliary, after = apply(params, state, x, key)
                loss = task.loss(output, y).mean()
                return loss + jnp.minimum(auxiliary, bound), (loss, after)

            return jax.grad(objective, has_aux=True)(params)

        def accumulated(params: Any, state: Any, data: Any, rows: Any, key: Any) -> Any:
            def add(sums: Any, inputs: Any) -> Any:
                part, index = inputs
                grads, (loss, after) = gradients(params, sums[2], data, part, key + (index << 16))
                total = jax.tree.map(lambda one, other: one + other.astype(one.dtype), sums[0], grads)
                return (total, sums[1] + loss, after), None

            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
            inputs = rows.reshape(recipe.accumulate, recipe.microbatch), jnp.arange(recipe.accumulate, dtype=jnp.uint32)
            (total, loss, after), _ = jax.lax.scan(add, (zeros, jnp.zeros(()), state), inputs)
            mean = jax.tree.map(lambda one, leaf: (one / recipe.accumulate).astype(leaf.dtype), total, params)
            return mean, (loss / recipe.accumulate, after)

        def step(carry: Any, numbers: Any, data: Any, rows: Any) -> Any:
            params, state, opt, count = carry
            lr, wd, seed = numbers
            key = seed * jnp.uint32(0x9E3779B1) + count  # what dropout sees is a function of (seed, step)
            found = (gradients if recipe.accumulate == 1 else accumulated)(params, state, data, rows, key)
            grads, (loss, after) = found
            updates, opt = self.optimizer(lr, wd).update(grads, opt, params)
            params = optax.apply_updates(params, updates)
            return (params, after, opt, count + jnp.uint32(1)), loss

        return step

    def compiled_step(self, carry: Any) -> Any:
        """The step (or a chunk of steps) as an executable."""
        if self._step is not None:
            return self._step
        import jax

        step = self.step_function()

        def chunk(carry: Any, numbers: Any, data: Any, rows: Any) -> Any:
            carry, losses = jax.lax.scan(lambda c, r: step(c, numbers, data, r), carry, rows)
            return carry, losses.mean()

        scan = self.how.mode == "scan"
        rows = np.zeros((self.how.chunk, self.space.recipe.batch), np.int32)
        numbers = (np.float32(0), np.float32(0), np.uint32(0))
        function, rows = (chunk, rows) if scan else (step, rows[0])
        lowered = jax.jit(function, donate_argnums=0).lower(carry, numbers, self.data, rows)
        self._step = self._timed_compile(lowered, self.how.train_level)
        return self._step

    def _timed_compile(self, lowered: Any, level: int | None) -> Any:
        options: dict[str, Any] = {}
        if level is not None:
            options = {
                "xla_backend_optimization_level": level,
                "xla_cpu_use_fusion_emitters": self.how.fusion_emitters,
                "xla_cpu_parallel_codegen_split_count": 1,  # one thread compiles; the bits are equal
            }
        return lowered.compile(compiler_options=options)

    def train(self, trial: dict[str, Any], start: int, stop: int, carry: Any, part: int = 0) -> tuple[Any, list[float]]:
        """Run steps start … stop-1.

        Args:
          trial: `lr`, `wd` and `seed`.
          start: steps that `carry` has had.
          stop: steps it shall have had.
          carry: (parameters, model state, optimiser state, step count).
          part: place of the task whose examples are trained on.
        Returns:
          The new carry, and the mean training loss of each chunk of `plan.chunk` steps.
        """
        executable = self.compiled_step(carry)
        numbers = (np.float32(trial["lr"]), np.float32(trial["wd"]), np.uint32(trial["seed"]))
        losses = []
        for index, first in enumerate(range(start, stop, self.how.chunk)):
            rows = rows_for(trial["seed"], first, first + self.how.chunk, self.count, self.space.recipe.batch)
            rows += np.int32(part * self.count)
            began = time.perf_counter()
            if self.how.mode == "scan":
                carry, loss = executable(carry, numbers, self.data, rows)
            else:
                each = []
                for row in rows:
                    carry, loss = executable(carry, numbers, self.data, row)
                    each.append(loss)
                loss = np.mean([float(one) for one in each])
            if index < TIMED:
                loss = float(loss)  # waits for it
                self.step_s = min(self.step_s, (time.perf_counter() - began) / self.how.chunk)
            losses.append(loss)
        return carry, [float(loss) for loss in losses]

    def evaluate(self, carry: Any, part: int = 0) -> tuple[float, float]:
        """Mean loss and mean score on a task's validation examples, at the optimiser's averaged weights.

        Running statistics (BatchNorm) were collected at the weights that are trained, which are not the averaged ones;
        so they are collected anew at those, on `CALIBRATION` training batches, and only for this evaluation.
        """
        return self.score(self.settled(carry, part), part)[:2]

    def settled(self, carry: Any, part: int = 0) -> tuple[Any, Any, Any]:
        """What an evaluation takes of a carry: parameters, model state, optimiser state."""
        params, state, opt, _ = carry
        return params, self.calibrated(params, state, opt, part) if state else state, opt

    def score(self, settled: tuple[Any, Any, Any], part: int = 0) -> Scored:
        """The same as `evaluate`, of what is settled."""
        examples = self._examples(self.validation, part)
        compiled = self._scoring(settled, examples)
        count = len(examples.inputs) // self.space.recipe.eval_batch
        first, sums = None, []
        for index in range(count):
            loss, score, outputs = compiled(*settled, *self._batch(examples, index))
            first = first if index else outputs
            sums.append((loss, score))
        seen = count * self.space.recipe.eval_batch
        return Scored(sum(float(s[0]) for s in sums) / seen, sum(float(s[1]) for s in sums) / seen, first)

    def leak(
        self, settled: tuple[Any, Any, Any], first: Any, calls: int, seed: Sequence[int], part: int = 0
    ) -> Leak | None:
        """What evaluation depends on and must not, at trained parameters, on validation examples.

        It is asked of the executable that scores; of a program with a Fourier transform in double precision, since
        real examples may begin alike, and then their outputs differ by no more than it rounds. In batches of the same
        shape, half of the rows are changed to other validation examples, in a causal space from a position of their
        own on; see `nas.admit.leaks.unseen`.

        Args:
          settled: what was scored.
          first: the outputs that it gave for the first batch.
          calls: how many batches are evaluated.
          seed: of which rows are changed, and from where on.
          part: place of the task.
        """
        examples = self._examples(self.validation, part)
        rows, causal = self.space.recipe.eval_batch, self.space.contract.causal
        inputs, targets = np.asarray(examples.inputs[:rows]), np.asarray(examples.targets[:rows])
        others = np.asarray(examples.inputs[rows : 2 * rows])
        others = others if len(others) == rows else np.roll(inputs, 1, axis=0)

        every = thinning(first.nbytes)
        tolerance = functools.cache(lambda: tolerance_of(self.artifacts["eval"], double=self.rounds_far))
        evaluate, outputs = self._scored(settled, targets, examples, every), np.asarray(first[..., ::every])
        if calls and self.rounds_far:
            evaluate, single = self._in_double(settled, inputs, every), outputs
            outputs = evaluate(inputs)
            if (found := other_program(single, outputs)) is not None:
                return found
        rng = np.random.default_rng(seed)
        for start in starts(rows, inputs.shape[1], calls, rng, causal=causal):
            found = unseen(
                evaluate, inputs, others, outputs, start, causal=causal,
                tolerance=tolerance, exact=self._jax.default_backend() == "cpu",
            )  # fmt: skip
            if found is not None:
                return found
        return None

    def _scored(
        self, settled: tuple[Any, Any, Any], targets: np.ndarray, examples: Split, every: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Inputs to every so many-th feature of the outputs, by the executable that scores."""
        scoring = self._scoring(settled, examples)
        return lambda x: np.asarray(scoring(*settled, *self._layout.along((x, targets)))[2][..., ::every])

    def _in_double(
        self, settled: tuple[Any, Any, Any], inputs: np.ndarray, every: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Inputs to every so many-th feature of the outputs, by the program that scores in double precision."""
        from optax import contrib

        params, state, opt = settled
        numbers = self._jax.jit(contrib.schedule_free_eval_params)(opt, params), state
        if self._double is None:
            self._double = compiled(self.artifacts["eval"], (*numbers, inputs), double=True, every=every)
        return functools.partial(self._double, *numbers)

    @functools.cached_property
    def rounds_far(self) -> bool:
        """Whether it scores by a program whose outputs before a change move by rounding."""
        return rounds_far(self.artifacts["eval"])

    def leak_calls(self, start: int, stop: int) -> int:
        """How many batches may be evaluated for leaks after training from step start to stop: see `LEAK_SHARE`.

        At the end of the ladder it is one at least. In a causal space more than try every cut once are of no use,
        elsewhere more than one. A program with a Fourier transform is asked on a CPU only, which has double precision.
        """
        if self.rounds_far and self._jax.default_backend() != "cpu":
            return 0
        recipe, contract, rows = self.space.recipe, self.space.contract, self.space.recipe.eval_batch
        trained = TRAINING_PASSES * recipe.batch * (stop - start)
        least = int(stop >= self.space.ladder.steps[-1])
        useful = -(-contract.input_shape[0] // max(1, rows // 2)) if contract.causal else 1
        return min(max(round(LEAK_SHARE * trained / rows), least), useful, MOST_LEAK_CALLS)

    def _scoring(self, settled: tuple[Any, Any, Any], examples: Split) -> Any:
        """The evaluation as an executable."""
        if self._evaluate is None:
            lowered = self._jax.jit(self._evaluation()).lower(*settled, *self._batch(examples, 0))
            self._evaluate = self._timed_compile(lowered, self.how.eval_level)
        return self._evaluate

    def evaluate_each(self, carry: Any, split: Split, part: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Loss and score of every example of a task in a split, as `evaluate` has their means: two (E,), float32."""
        settled = self.settled(carry, part)
        examples = self._examples(split, part)
        batch = functools.partial(self._batch, examples)
        if self._each is None:
            lowered = self._jax.jit(self._evaluation(each=True)).lower(*settled, *batch(0))
            self._each = self._timed_compile(lowered, self.how.eval_level)
        compiled, count = self._each, len(examples.inputs) // self.space.recipe.eval_batch
        found = [compiled(*settled, *batch(index)) for index in range(count)]
        losses, scores = (np.concatenate([np.asarray(one[i], np.float32) for one in found]) for i in (0, 1))
        return losses, scores

    def time_inference(self, carry: Any) -> float:
        """How long one example takes in a batch of `recipe.eval_batch` that lies on the device [s], wall clock.

        Compiled as for use, and not as cheaply as an evaluation that is run a few times.
        """
        import jax
        from optax import contrib

        params, state, opt, _ = carry
        params = jax.jit(contrib.schedule_free_eval_params)(opt, params)
        inputs = jax.device_put(self._batch(self.validation, 0)[0])
        compiled = jax.jit(self.artifacts["eval"].call).lower(params, state, inputs).compile()
        fastest = math.inf
        for _ in range(1 + TIMED_INFERENCES):
            began = time.perf_counter()
            jax.block_until_ready(compiled(params, state, inputs))
            fastest = min(fastest, time.perf_counter() - began)
        return fastest / len(inputs)

    def _evaluation(self, *, each: bool = False) -> Any:
        from optax import contrib

        call, task = self.artifacts["eval"].call, self.space.task

        def evaluation(params: Any, state: Any, opt: Any, x: Any, y: Any) -> Any:
            output = call(contrib.schedule_free_eval_params(opt, params), state, x)
            losses, scores = task.loss(output, y), task.score(output, y)
            return (losses, scores) if each else (losses.sum(), scores.sum(), output)

        return evaluation

    def calibrated(self, params: Any, state: Any, opt: Any, part: int = 0) -> Any:
        """The model's state after passing training batches through it at the averaged weights."""
        import jax
        from optax import contrib

        forward = self.artifacts["forward"].call

        def collect(params: Any, state: Any, opt: Any, inputs: Any, rows: Any, step: Any) -> Any:
            return forward(contrib.schedule_free_eval_params(opt, params), state, inputs[rows], step)[2]

        rows = rows_for(0, 0, CALIBRATION, self.count, self.space.recipe.microbatch) + np.int32(part * self.count)
        if self._calibrate is None:
            lowered = jax.jit(collect).lower(params, state, opt, self.data[0], rows[0], np.uint32(0))
            self._calibrate = self._timed_compile(lowered, self.how.train_level)
        for step, row in enumerate(rows):
            state = self._calibrate(params, state, opt, self.data[0], row, np.uint32(step))
        return state

    def _examples(self, split: Split, part: int) -> Split:
        """A task's examples of a split."""
        count = len(split.inputs) // len(self.parts)
        own = slice(part * count, (part + 1) * count)
        return Split(split.inputs[own], split.targets[own])

    def _batch(self, split: Split, index: int) -> Any:
        size = self.space.recipe.eval_batch
        rows = slice(index * size, (index + 1) * size)
        return self._layout.along((np.asarray(split.inputs[rows]), np.asarray(split.targets[rows])))


class _Layout:
    """How arrays lie on the devices of one trial: batches along them, all else on each; with one device, on that."""

    def __init__(self, devices: int) -> None:
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        there = jax.devices()
        if devices > len(there):
            raise ValueError(f"a trial shall have {devices} devices and its trainer sees {len(there)}; ask for fewer")
        automatic = (jax.sharding.AxisType.Auto,)  # the compiler spreads the program, which says nothing of devices
        mesh = jax.make_mesh((devices,), ("batch",), automatic, devices=there[:devices]) if devices > 1 else None
        self._whole = NamedSharding(mesh, PartitionSpec()) if mesh else None
        self._rows = NamedSharding(mesh, PartitionSpec("batch")) if mesh else None

    def everywhere(self, tree: Any) -> Any:
        """Put arrays on every device, whole."""
        import jax

        return jax.device_put(tree, self._whole)

    def along(self, tree: Any) -> Any:
        """Put arrays along the devices by their leading axis; with one device they stay where they are."""
        import jax

        return tree if self._rows is None else jax.device_put(tree, self._rows)

    def spread(self, array: Any) -> Any:
        """The same of an array inside a compiled function."""
        import jax

        return array if self._rows is None else jax.lax.with_sharding_constraint(array, self._rows)


def rows_for(seed: int, start: int, stop: int, count: int, batch: int) -> np.ndarray:
    """Which training examples steps start … stop-1 see: int32 [stop - start, batch], a function of (seed, step) alone.

    Every epoch is a fresh permutation of the split; what does not fill a batch is left out.
    """
    per_epoch = max(1, count // batch)
    out = np.empty((stop - start, batch), np.int32)
    order: np.ndarray = np.empty(0, np.int32)
    known = -1
    for step in range(start, stop):
        epoch, place = divmod(step, per_epoch)
        if epoch != known:
            order, known = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count), epoch
        out[step - start] = np.resize(order[place * batch : (place + 1) * batch], batch)
    return out


def plan_to_plain(how: Plan) -> dict[str, Any]:
    """A plan as plain data, for a job's payload and the store."""
    return dataclasses.asdict(how)
