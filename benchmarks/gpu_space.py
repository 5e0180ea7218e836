"""The gpu size of byte_lm, with rungs so short that ten candidates take minutes: what `benchmarks/gpu.sh` searches.

Sizes of the model, batch and data are byte_lm's; attention is the only baseline, and the rungs end where a search only
begins. So what shows is whether a search runs on the device and what it takes, and no score is worth anything.

By the formula of `byte_lm.space.flops`, at three forward passes a step, a step is 3.0 TFLOP. A budget of ten has 13
trials at the first rung, with tuning, of which 3 go on, and the baseline: 1,350 steps, 4.1 PFLOP, 41 s at 100 TFLOP/s.
More than that is admission: looking for leaks takes 14 calls of 16 windows, on the CPU, where one took 6 CPU seconds;
so give as many workers as there are cores.
"""

import dataclasses

from nas.space import Ladder, load

GPU = load("byte_lm?size=gpu")

SPACE = dataclasses.replace(
    GPU,
    name="byte_lm_gpu_short",
    ladder=Ladder(steps=(50, 200), eta=4),
    baselines={"attention": GPU.baselines["attention"]},
    baseline_seeds=1,
    scale={},
    options={},
)
