"""Fingerprint a program: one hash for all spellings of the same network and its training step.

In go the four artifacts as read by `stablehlo.py`, out comes a `Graph` that joins them, and its hash. Parameters,
state, inputs and seeds are shared nodes, known by role, shape and dtype and not by position, since a renamed attribute
permutes them; forward's residuals are the very values that backward takes. Calls are inlined, equal expressions are
one node, commutative operands have no order, loops carry slots without order, what no output needs is left out, and
random bits are known by their shape alone, not by their place in the stream of keys. An operation of
`nas.kernels` is its name and settings, whatever decomposition came with it. Constants, initialisers, dropout rates,
tied weights and stopped gradients remain. What is left is compared by colour refinement. Programs that compute
the same by other algebra (h + h, 2 * h) are not recognized, and no attempt is made to.

Source: colour refinement as in Weisfeiler and Leman (1968); our change: directed, labelled edges, and sums of mixed
64-bit colours instead of sorted multisets.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.admit.stablehlo import COMMUTATIVE, Block, Module, Operation, text

_NOT_STRUCTURE = ("callee", "decomposition", "result_layouts")
_OUTPUTS = ("eval", "output", "auxiliary", "new_state", "gradient", "param", "state")
_ROUNDS = 4


@dataclass(slots=True)
class Graph:
    """The joint dataflow of init, eval, forward and backward.

    Attributes:
      labels: what each node is, as a number into `names`.
      inputs: the nodes that each node is computed from.
      ordered: whether the order of a node's inputs matters.
      names: text of each label.
      bits: nodes that hold what a generator of random bits returns.
      roles: nodes by role: `param`, `state`, `x`, `seed`, `d_output`, `output`, `auxiliary`, `new_state`, `eval`,
        `residual` and `gradient`.
    """

    labels: list[int] = field(default_factory=list)
    inputs: list[list[int]] = field(default_factory=list)
    ordered: list[bool] = field(default_factory=list)
    names: dict[Any, int] = field(default_factory=dict)
    bits: list[int] = field(default_factory=list)
    roles: dict[str, list[int]] = field(default_factory=dict)

    def depends(self, nodes: Sequence[int], source: int) -> bool:
        """Whether any of these nodes is computed from `source`, as far as the graph can tell."""
        return source in reachable(self.inputs, nodes)


class _Builder:
    """Adds artifacts to a graph; equal expressions become one node."""

    def __init__(self) -> None:
        self.graph = Graph()
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}
        self._texts: dict[Any, str] = {}

    def node(self, label: Any, inputs: Sequence[int] = (), *, ordered: bool = True) -> int:
        """A node of its own."""
        graph = self.graph
        graph.labels.append(graph.names.setdefault(label, len(graph.names)))
        graph.inputs.append(list(inputs))
        graph.ordered.append(ordered)
        return len(graph.labels) - 1

    def shared(self, label: Any, inputs: tuple[int, ...], *, ordered: bool = True) -> int:
        """The node of this expression, the same whenever it is asked for."""
        key = (self.graph.names.setdefault(label, len(self.graph.names)), inputs if ordered else tuple(sorted(inputs)))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self.node(label, inputs, ordered=ordered)
        return found

    def call(self, module: Module, name: str, arguments: Sequence[int]) -> list[int]:
        """The nodes that a function returns for these arguments."""
        block = module.functions[name]
        return self._block(module, block, dict(zip(block.arguments, arguments, strict=True)))

    def _block(self, module: Module, block: Block, values: dict[int, int]) -> list[int]:
        for operation in block.operations:
            if operation.name == "func.call":
                name = text(operation.attributes["callee"])
                nodes = self.call(module, name, [values[v] for v in operation.operands])
                if _is_generator(module, module.functions[name]):
                    nodes = self._bits(module, operation, nodes)
            elif operation.name == "stablehlo.while":
                nodes = self._loop(module, operation, values)
            elif operation.name in ("stablehlo.case", "stablehlo.if"):
                nodes = self._branches(module, operation, values)
            elif operation.name == "stablehlo.optimization_barrier":
                # A rematerialized block fences its values in the order of their names; each passes by itself.
                nodes = [self.shared((operation.name,), (values[v],)) for v in operation.operands]
            else:
                nodes = self._plain(module, operation, values)
                if operation.name == "stablehlo.rng_bit_generator":
                    nodes = self._bits(module, operation, nodes)
            values.update(zip(operation.results, nodes, strict=True))
        return [values[v] for v in block.returned]

    def _bits(self, module: Module, operation: Operation, nodes: list[int]) -> list[int]:
        """Mark what a generator returns: where in the stream of keys it was drawn is not structure."""
        kinds = [module.types[v] for v in operation.results]
        bits = [self.shared(("bits", kind), (node,)) for kind, node in zip(kinds, nodes, strict=True)]
        self.graph.bits += bits
        return bits

    def _plain(self, module: Module, operation: Operation, values: dict[int, int]) -> list[int]:
        inputs = tuple([values[v] for v in operation.operands])
        types = [module.types[v] for v in operation.results]
        ours = operation.results and operation.results[0] in module.claims
        name = text(operation.attributes["name"]) if ours else operation.name  # what it says; its settings are below
        label = (name, self._attributes(operation), *types)
        if operation.blocks:
            captured: dict[int, int] = {}
            label = (*label, *[self._body(module, block, captured) for block in operation.blocks])
            inputs += tuple([values[v] for v in captured])
        me = self.shared(label, inputs, ordered=operation.name not in COMMUTATIVE)
        return [me] if len(types) == 1 else [self.shared(("result", index), (me,)) for index in range(len(types))]

    def _attributes(self, operation: Operation) -> tuple[tuple[str, str], ...]:
        found = []
        for name, value in operation.attributes.items():
            if name not in _NOT_STRUCTURE:
                written = self._texts.get(value)
                if written is None:
                    written = self._texts[value] = str(value)
                found.append((name, written))
        return tuple(found)

    def _body(self, module: Module, block: Block, captured: dict[int, int]) -> int:
        """Hash of a function that a reduction, scatter or sort applies; notes what it takes from outside."""
        terms = {value: index for index, value in enumerate(block.arguments)}

        def term(value: int) -> int:
            return terms[value] if value in terms else _hash("outside", captured.setdefault(value, len(captured)))

        def apply(block: Block) -> list[int]:
            for operation in block.operations:
                inputs = [term(value) for value in operation.operands]
                if operation.name == "func.call":
                    called = module.functions[text(operation.attributes["callee"])]
                    terms.update(zip(called.arguments, inputs, strict=True))
                    found = apply(called)
                else:
                    label = (operation.name, self._attributes(operation))
                    inputs = sorted(inputs) if operation.name in COMMUTATIVE else inputs
                    found = [_hash(label, inputs, module.types[v], i) for i, v in enumerate(operation.results)]
                terms.update(zip(operation.results, found, strict=True))
            return [term(value) for value in block.returned]

        return _hash(apply(block))

    def _branches(self, module: Module, operation: Operation, values: dict[int, int]) -> list[int]:
        choice = values[operation.operands[0]]
        outcomes = [self._block(module, block, dict(values)) for block in operation.blocks]
        return [
            self.shared((operation.name,), (choice, *(out[index] for out in outcomes)))
            for index in range(len(operation.results))
        ]

    def _loop(self, module: Module, operation: Operation, values: dict[int, int]) -> list[int]:
        """A node for the loop, with its condition, and one for each carried slot, with its start and its next value."""
        condition, body = operation.blocks
        kinds = [module.types[value] for value in operation.operands]
        # A slot that never changes is the same as a value from outside.
        changes = [after != before for after, before in zip(body.returned, body.arguments, strict=True)]
        loop = self.node("loop")
        slots = [
            self.node(("carried", kind), [values[start]]) if change else values[start]
            for start, kind, change in zip(operation.operands, kinds, changes, strict=True)
        ]
        self.graph.inputs[loop] += self._block(
            module, condition, values | dict(zip(condition.arguments, slots, strict=True))
        )
        after = self._block(module, body, values | dict(zip(body.arguments, slots, strict=True)))
        for slot, value, change in zip(slots, after, changes, strict=True):
            if change:
                self.graph.inputs[slot] += [value, loop]
        return [
            self.node(("left", kind), [slot]) if change else slot
            for slot, kind, change in zip(slots, kinds, changes, strict=True)
        ]


def join(
    modules: Mapping[str, Module], kept: Mapping[str, Sequence[int]], param_leaves: int, state_leaves: int
) -> Graph:
    """Join the artifacts of one program, whose signatures have been checked, into one graph.

    Args:
      modules: each artifact as read.
      kept: which of its arguments each artifact's `main` takes; exporting drops those it does not use.
      param_leaves: how many parameters there are.
      state_leaves: how many leaves of state there are.
    """
    build = _Builder()

    def run(name: str, arguments: Sequence[int]) -> list[int]:
        return build.call(modules[name], "main", [arguments[index] for index in kept[name]])

    init = modules["init"]
    kinds = [init.types[value] for value in init.main.returned]
    leaves = [build.node(("param" if i < param_leaves else "state", kind)) for i, kind in enumerate(kinds)]
    x, seed, start = build.node("x"), build.node("seed"), build.node("seed")
    cotangents = [build.node("d output"), build.node("d auxiliary")]
    roles = build.graph.roles
    roles |= {"param": leaves[:param_leaves], "state": leaves[param_leaves:], "x": [x], "seed": [start, seed]}
    for leaf, value in zip(leaves, run("init", [start]), strict=True):
        build.graph.inputs[leaf].append(value)
    roles["eval"] = run("eval", [*leaves, x])
    output, auxiliary, *rest = run("forward", [*leaves, x, seed])
    roles |= {"output": [output], "auxiliary": [auxiliary], "residual": rest[state_leaves:], "d_output": cotangents[:1]}
    roles["new_state"] = rest[:state_leaves]
    roles["gradient"] = run("backward", [*roles["residual"], *cotangents])
    return build.graph


def fingerprint(graph: Graph) -> str:
    """Hash a joint graph; equal for graphs that differ only in the order and the names of things.

    Returns:
      32 hexadecimal digits.
    """
    labels, inputs = _without_keys(graph)
    ends = []
    for role in _OUTPUTS:
        for index, node in enumerate(graph.roles[role]):
            leaf = {"gradient": "param", "new_state": "state"}.get(role)
            labels.append(_hash("end", role))
            inputs.append([node] if leaf is None else [node, graph.roles[leaf][index]])
            ends.append(len(labels) - 1)
    ordered = np.array(graph.ordered + [True] * len(ends))

    live = np.array(sorted(reachable(inputs, ends)))
    place = np.zeros(len(labels), np.int64)
    place[live] = np.arange(len(live))
    counts = np.array([len(inputs[node]) for node in live])
    source = place[np.array([other for node in live for other in inputs[node]], np.int64)]
    target = np.repeat(np.arange(len(live)), counts)
    port = np.concatenate([np.arange(count) for count in counts]) * ordered[live][target]
    colours = _refine(np.array(labels, np.uint64)[live], source, target, port.astype(np.uint64))
    return hashlib.sha256(np.sort(colours).tobytes()).hexdigest()[:32]


def _without_keys(graph: Graph) -> tuple[list[int], list[list[int]]]:
    """Labels as hashes and inputs, where random bits that come from a seed alone are leaves."""
    hashes = [_hash(label) for label in graph.names]
    labels = [hashes[label] for label in graph.labels]
    inputs = list(graph.inputs)
    seeds = _users(graph.inputs, graph.roles["seed"])
    others = [node for role in ("param", "state", "x", "d_output") for node in graph.roles[role]]
    data = _users(graph.inputs, others)
    for node in graph.bits:
        if node in seeds and node not in data:
            inputs[node] = []
    return labels, inputs


def _is_generator(module: Module, block: Block) -> bool:
    """Whether a function is one that mixes random bits, threefry's: on unsigned integers alone, with exclusive ors."""
    return all(module.types[v].element.startswith("ui") for v in (*block.arguments, *block.returned)) and any(
        operation.name == "stablehlo.xor" for operation in block.operations
    )


def _users(inputs: list[list[int]], sources: Sequence[int]) -> set[int]:
    """Nodes that are computed from any of these, themselves included."""
    users: list[list[int]] = [[] for _ in inputs]
    for node, used in enumerate(inputs):
        for other in used:
            users[other].append(node)
    return reachable(users, sources)


def reachable(edges: list[list[int]], nodes: Sequence[int]) -> set[int]:
    """All nodes that these lead to along the edges, themselves included."""
    found: set[int] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += edges[node]
    return found


def _refine(colours: np.ndarray, source: np.ndarray, target: np.ndarray, port: np.ndarray) -> np.ndarray:
    """Colour nodes by what they are computed from and what is computed from them, until no class splits further."""
    ahead, back = _mix(port + np.uint64(1)), _mix(port + np.uint64(1 << 32))
    classes = 0
    while len(np.unique(colours)) > classes:
        classes = len(np.unique(colours))
        for _ in range(_ROUNDS):
            given, taken = np.zeros_like(colours), np.zeros_like(colours)
            np.add.at(given, target, _mix(colours[source] ^ ahead))
            np.add.at(taken, source, _mix(colours[target] ^ back))
            colours = _mix(colours + _mix(given) * np.uint64(3) + _mix(taken ^ np.uint64(1)) * np.uint64(5))
    return colours


def _mix(values: np.ndarray) -> np.ndarray:
    """Scatter the bits of 64-bit numbers; a bijection. Source: the finalizer of SplitMix64, Steele et al. (2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hash(*parts: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")
