"""A scripted model: replies of the right form, computed from the request alone, so that the same question has the same
answer whatever happened to the connection meanwhile.

It writes samples of the space's grammar, now and then something that must be sent back, and forecasts at random.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.propose import grammar
from nas.space import SearchSpace
from tests.messages_server import Answer, Request

IDEAS = [{"idea": f"idea number {n}", "probability": 0.4 / n} for n in range(1, 6)]


@dataclass(frozen=True)
class Scripted:
    """A handler for `MessagesServer`.

    Attributes:
      space: whose grammar is sampled.
      wrong: share of the modules that the gate rejects.
      garbled: share of the replies that have no module.
      delay_s: before each reply.
      refused: whether it declines everything.
    """

    space: SearchSpace
    wrong: float = 0.2
    garbled: float = 0.1
    delay_s: float = 0.0
    refused: bool = False

    def __call__(self, request: Request) -> Answer:
        body = request.body
        if self.refused:
            return Answer("I cannot help with this.", stop_reason="refusal", category="frontier_llm")
        return Answer(self._text(body), delay_s=self.delay_s)

    def _text(self, body: dict[str, Any]) -> str:
        last = "".join(block if isinstance(block, str) else block["text"] for block in [_text_of(body)])
        seed = hashlib.sha256(json.dumps([body.get("system"), body["messages"]]).encode()).digest()
        rng = np.random.default_rng(list(seed))
        ids = re.search(r"for each of these ids: ([0-9, ]+)", last)
        if ids:
            told = [{"id": int(i), "why": "a guess", "probability": float(rng.random())} for i in ids[1].split(",")]
            return json.dumps({"forecasts": told})
        if "<ideas> block only" in last:
            shown = re.findall(r"(?m)^- #(\d+)", "".join(block for block in _blocks(body)))
            wish = {"parent": int(rng.choice([int(i) for i in shown])), "kind": "mixer"} if shown else {}
            return f"<ideas>\n{json.dumps([idea | wish for idea in IDEAS])}\n</ideas>"
        if rng.random() < self.garbled:
            return "I would rather talk about the weather."
        source = self._module(rng)
        if rng.random() < self.wrong:
            source = source.replace("class Model", "import os\n\n\nclass Model")
        meta = {"hypothesis": "it learns faster", "refutes": "it does not", "parents": [], "kind": "free"}
        return f"<meta>\n{json.dumps(meta)}\n</meta>\n<code>\n{source}\n</code>"

    def _module(self, rng: np.random.Generator) -> str:
        return grammar.sample(self.space, rng)


def _blocks(body: dict[str, Any]) -> list[str]:
    system = body.get("system") or ""
    return [system] if isinstance(system, str) else [block["text"] for block in system[1:]]


def _text_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(block["text"] for block in content)
