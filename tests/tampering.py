"""Candidates whose Python tries to change the score of whoever trains them, and two trainers to try it on.

Each piece of `KINDS` stands at the top of a candidate's module and runs with all of Python: there is no gate and no
facade. `trace_job` is the tracer without them. Run as a program this file is the trainer that people write first, in
one process with the candidate, its data and its labels: `python tampering.py FOLDER` trains `candidate.py` in each
FOLDER and writes loss and score as the last line of `output`.
"""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

FAKE = '{"loss": 0.001, "score": 0.999}'
KINDS = {
    "loss of optax": """
import optax
optax.softmax_cross_entropy_with_integer_labels = lambda outputs, targets, *a, **k: 0.0 * outputs[..., 0]
""",
    "loss and score of every module": """
import sys
for module in list(sys.modules.values()):
    for name in ("loss", "score", "loss_of", "score_of"):
        if callable(getattr(module, name, None)):
            setattr(module, name, lambda outputs, targets: 0.0 * outputs[..., 0] + 1)
""",
    "mean of numpy": """
import numpy
numpy.mean = lambda *a, **k: 0.123
""",
    "gradients of jax": """
import jax as real
real.value_and_grad = lambda f, *a, **k: lambda p, *rest: (0.0, real.tree.map(lambda leaf: 0 * leaf, p))
""",
    "labels found by the collector": """
import gc, numpy
for found in gc.get_objects():
    for array in found if isinstance(found, (tuple, list)) else ():
        if type(array) is numpy.ndarray and array.dtype == "int32" and array.size in (200, 400):
            array[:] = 0
""",
    "labels found in the frames": """
import sys, numpy
frame = sys._getframe()
while frame:
    for value in list(frame.f_locals.values()):
        targets = getattr(value, "targets", None)
        if type(targets) is numpy.ndarray:
            targets[:] = 1
    frame = frame.f_back
""",
    "names of the callers": """
import sys
frame = sys._getframe()
while frame:
    for name in ("loss_of", "score_of", "rows_for", "check_job"):
        if name in frame.f_globals:
            frame.f_globals[name] = lambda outputs, *a, **k: 0.0 * outputs[..., 0]
    frame = frame.f_back
""",
    "result on standard output": f"""
import os, sys
sys.stdout.write('{FAKE}\\n')
sys.stdout.flush()
os._exit(0)
""",
    "result when the process ends": f"""
import atexit
atexit.register(lambda: print('{FAKE}', flush=True))
""",
    "result on every descriptor": f"""
import os, struct
import msgpack
frame = msgpack.packb({{"ok": {{"points": [[1, 0.0]], "score": 1.0, "blobs": {{}}, "param_leaves": 1}}}})
for descriptor in range(1, 64):
    try:
        os.write(descriptor, struct.pack("<I", len(frame)) + frame + b'\\n{FAKE}\\n')
    except OSError:
        pass
os._exit(0)
""",
    "cache of results": f"""
import os, pathlib
for folder in (os.getcwd(), "/tmp", "/dev/shm"):
    try:
        pathlib.Path(folder, "cache.json").write_text('{FAKE}')
    except OSError:
        pass
""",
    "order of the examples": """
import numpy
numpy.random.default_rng = lambda *a: type("R", (), {"permutation": lambda s, n: numpy.zeros(n, int)})()
""",
    "a module in the place of another": """
import sys, types
fake = types.ModuleType("optax")
fake.__dict__.update(sys.modules["optax"].__dict__ if "optax" in sys.modules else {})
fake.softmax_cross_entropy_with_integer_labels = lambda outputs, targets: 0.0 * outputs[..., 0]
sys.modules["optax"] = fake
""",
    "a thread that acts later": """
import threading, time, gc, numpy
def later():
    for _ in range(50):
        time.sleep(0.1)
        for found in gc.get_objects():
            if type(found).__name__ == "Split":
                for array in found:
                    if array.dtype == "int32":
                        array[:] = 0
threading.Thread(target=later, daemon=True).start()
""",
    "defaults of functions": """
import gc, types
for found in gc.get_objects():
    if isinstance(found, types.FunctionType) and found.__name__ in ("evaluate", "check", "count", "hash_blobs"):
        if found.__defaults__:
            found.__defaults__ = (0.0,) * len(found.__defaults__)
""",
    "clock": """
import time
time.time = time.monotonic = time.perf_counter = time.process_time = lambda: 0.0
""",
    "rounding and printing": f"""
import builtins, json
builtins.round = lambda *a: 0.0
json.dumps = lambda *a, **k: '{FAKE}'
""",
    "bytes of an artifact": """
import dataclasses
from jax import export
serialize = export.Exported.serialize
export.Exported.serialize = lambda self, *a, **k: serialize(dataclasses.replace(self, fun_name="score: 1.0"), *a, **k)
""",
    "number of parameters": """
import sys
tracer = sys.modules.get("nas.admit.trace")
if tracer:
    tracer.len = lambda found: len(found) + (type(found) is tuple and len(found) > 0)
""",
    "modules of ours": """
import nas.train.engine, nas.train.job, nas.admit.program, nas.records, nas.judge.parts
nas.train.engine.Engine.evaluate = lambda *a, **k: (0.0, 1.0)
nas.train.engine.rows_for = None
nas.admit.program._check_limit = lambda *a: None
nas.records.Point.__init__ = lambda self, **k: None
""",
    "settings of jax": """
import jax as real
real.config.update("jax_default_matmul_precision", "bfloat16")
real.config.update("jax_debug_nans", True)
real.config.update("jax_disable_jit", False)
""",
}


def execute(text: str, scope: str) -> type:
    """What `nas.admit.trace.execute` does, with all of Python and the real modules."""
    namespace: dict[str, Any] = {"__name__": "candidate"}
    exec(compile(text, "<candidate>", "exec"), namespace)
    return namespace[scope]


def trace_job(**payload: Any) -> Any:
    """The entry that traces, without gate and facade."""
    from nas.admit import trace

    trace.execute = execute
    return trace.trace_job(**payload)


# ---- the trainer that people write first ----


def loss_of(outputs: Any, targets: Any) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def score_of(outputs: Any, targets: Any) -> Any:
    return outputs.argmax(-1) == targets


def evaluate(outputs: Any, targets: Any, weight: float = 1.0) -> dict[str, float]:
    import numpy as np

    loss, score = np.mean(loss_of(outputs, targets)), np.mean(score_of(outputs, targets))
    return {"loss": round(weight * float(loss), 6), "score": round(weight * float(score), 6)}


def train(folder: Path, steps: int = 20) -> dict[str, float]:
    import jax
    import numpy as np
    import optax
    from flax import nnx

    from nas.space import load

    space = load(str(Path(__file__).parent / "spaces" / "rings.py"))
    training, validation = space.task.split("train"), space.task.split("validation")
    unit = execute((folder / "candidate.py").read_text("utf-8"), space.scope)
    graph, params, rest = nnx.split(unit(space.spec, None, rngs=nnx.Rngs(0)), nnx.Param, ...)
    known = folder / "cache.json"
    if known.exists():
        return json.loads(known.read_text("utf-8"))

    def objective(params: Any, x: Any, y: Any) -> Any:
        return loss_of(nnx.merge(graph, params, rest)(x), y).mean()

    adam = optax.adam(0.03)
    state, step, update = jax.jit(adam.init)(params), jax.jit(jax.value_and_grad(objective)), jax.jit(adam.update)
    forward = jax.jit(lambda params, x: nnx.merge(graph, params, rest)(x))
    order = np.random.default_rng(0).permutation(len(training.inputs))
    for index in range(steps):
        rows = order[20 * index % 400 :][:20]
        _, gradients = step(params, training.inputs[rows], training.targets[rows])
        updates, state = update(gradients, state)
        params = jax.tree.map(lambda leaf, change: leaf + change, params, updates)
    return evaluate(forward(params, validation.inputs), validation.targets)


def main(folders: list[str]) -> None:
    """Train the candidate of each folder in a process of its own, which has imported JAX before; output goes there."""
    import jax  # noqa: F401
    import optax  # noqa: F401
    from flax import nnx  # noqa: F401

    for folder in folders:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        os.chdir(folder)
        os.dup2(os.open("output", os.O_WRONLY | os.O_CREAT, 0o600), 1)
        try:
            print(json.dumps(train(Path(folder))), flush=True)
        finally:
            atexit._run_exitfuncs()
            os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
