"""What measures speed and quality. Each module is a program, run from the root: `python -m benchmarks.throughput`.

A program prints a table and, with `--json FILE`, writes the figures with the machine and the versions. Machines are
noisy, so what counts are ratios within one run, in which the sides that are compared take turns.

    throughput   candidates a second, the wall included, against a fresh process for each
    step         one training step against the same step written by hand
    published    known architectures, fully trained, against their published accuracies
    searches     whole searches: time, memory, where the seconds go, what they find, what each arm is worth
    waiting      what deciding in order costs above order of arrival
    kill         a search killed at random moments and resumed, against one that was not
    headroom     how far the best candidate stands above the baselines, both with fresh seeds
    forecasters  searches in which a model forecasts, rightly and wrongly, on tables of curves and made-up ones
    latency      device time that is lost to waiting for a model's replies, in virtual time
    strategy     how good the search is, without training: the real loop and its rivals on tables
    kernels      each operation with fast code against its reference, and against the device's ceilings
    language_model   a byte transformer's step behind the wall, by hand, and in PyTorch
    recall       known mixers on each task of recall, by our harness, beside published scores
    accelerator  one accelerator: the step against the ceiling, seeds at once; `gpu.sh`: that, the kernels and a search
    belief       false claims and power of confirmation, simulated; `null`: whole searches on random labels
    fuzz         programs damaged at random: refused, or trained beside a computation that trusts nothing
    false_alarms honest candidates by the hundred against the leak check
    locks        what the kernel's locks cost; `program_size`, `memory`: the check's time, and what it counts
    fingerprint  evolved candidates respelled (equal wanted) and mutated (different wanted)
"""
