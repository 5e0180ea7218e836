"""How alike two programs are, whatever their sizes: a few numbers each, compared in a moment.

The fingerprint tells equal from different; this tells "the same, a little wider" from a new structure. In goes the
joint graph of a program, out come the smallest hashes of its parts: an operation with the operations that it is
computed from and theirs, without shapes, constants and attributes. Two sketches estimate the Jaccard similarity of the
sets of parts.

Source: bottom-k sketches, Cohen and Kaplan (2007); parts as in subtree kernels of Shervashidze et al., "Weisfeiler-
Lehman graph kernels", JMLR 12 (2011), two rounds.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.admit.fingerprint import Graph

SIZE = 128
"""Numbers in a sketch; a program of fewer parts has fewer, and is compared exactly."""
ROUNDS = 2
NEAR = 0.97
"""Similarity from which only sizes, constants or a detail differ."""


def sketch(graph: "Graph") -> tuple[int, ...]:
    """The smallest hashes of the parts that the evaluation is computed from, ascending, at most `SIZE`."""
    from nas.admit.fingerprint import reachable  # it reads programs, and whoever only compares must not

    operations = [label if isinstance(label, str) else label[0] for label in graph.names]
    labels = [operations[label] for label in graph.labels]
    leaves = {*graph.roles["param"], *graph.roles["state"]}  # how these are initialised is not compared
    inputs = [[] if node in leaves else used for node, used in enumerate(graph.inputs)]
    parts = [_hash(str(label)) for label in labels]
    for _ in range(ROUNDS):
        inner = parts
        parts = [
            _hash(f"{label} {sorted(inner[other] for other in inputs[node])}") for node, label in enumerate(labels)
        ]
    seen: Counter[int] = Counter()
    hashes = []
    for node in sorted(reachable(inputs, graph.roles["eval"])):
        seen[parts[node]] += 1
        hashes.append(_hash(f"{parts[node]} {seen[parts[node]]}"))  # a part that comes twice counts twice
    return tuple(sorted(hashes)[:SIZE])


def similarity(one: Sequence[int], other: Sequence[int]) -> float:
    """Estimate of the Jaccard similarity of two programs' parts, in [0, 1]."""
    both = set(one) & set(other)
    union = sorted(set(one) | set(other))[:SIZE]
    return sum(value in both for value in union) / len(union) if union else 1.0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
