"""No search spends more than it may, counted by the server that bills it."""

import random
from decimal import Decimal

import pytest

from nas.llm import Request, Usage
from nas.llm.client import Client, Settings
from nas.llm.ledger import Ledger
from nas.llm.price import cost, read_price
from tests.messages_server import TRANSIENT, Answer, Chance, MessagesServer
from tests.messages_server import Request as Arrived

PRICE = read_price("2/10")
FAULTS = [name for name in TRANSIENT if name not in ("hang", "stall", "429 retry-after", "429 retry-after-ms")]


class Purses:
    """The ledgers of many searches behind one client; a search is known by the name of its model."""

    def __init__(self, limits: dict[str, Decimal]) -> None:
        self.ledgers = {model: Ledger(limit, {model: PRICE}) for model, limit in limits.items()}
        self.owners: list[tuple[str, int]] = []

    def reserve(self, request: Request, model: str) -> int | None:
        ticket = self.ledgers[model].reserve(request, model)
        if ticket is None:
            return None
        self.owners.append((model, ticket))
        return len(self.owners) - 1

    def settle(self, ticket: int, usage: Usage | None) -> None:
        model, own = self.owners[ticket]
        self.ledgers[model].settle(own, usage)

    def would_fit(self, request: Request, model: str) -> bool:
        return self.ledgers[model].would_fit(request, model)

    def why_not(self, request: Request, model: str) -> str:
        return self.ledgers[model].why_not(request, model)


def answer(request: Arrived) -> Answer:
    rng = random.Random(request.body["messages"][0]["content"])
    most = request.body["max_tokens"]
    return Answer(
        "word " * rng.randrange(1, 20), output_tokens=rng.choice([1, most // 2, most, rng.randrange(1, most)])
    )


@pytest.mark.slow
def test_a_thousand_searches_with_random_usage_and_faults_keep_their_limits() -> None:
    rng = random.Random(0)
    limits = {f"search-{n}": Decimal(rng.choice(["0.001", "0.005", "0.02", "0.1"])) for n in range(1_000)}
    purse = Purses(limits)
    with MessagesServer(answer, chance=Chance(0.2, seed=1, names=FAULTS)) as server:
        settings = Settings(models={"propose": "x", "repair": "x", "forecast": "x"}, base_url=server.url, key="any")
        client = Client(settings, deadline_s=60.0, attempts=3, backoff_s=0.01, purse=purse)
        waiting = [
            client.submit(Request(
                id=f"{n}.call", role="propose", model=model, system=("a prompt",),
                messages=(("user", f"{model} {n} " + "x" * rng.randrange(1, 400)),), max_tokens=rng.randrange(10, 500),
            ))
            for model in limits for n in range(rng.randrange(2, 8))
        ]  # fmt: skip
        outcomes = [future.result(timeout=120).outcome for future in waiting]
        billed = server.account.billed()
        client.close()
    assert {"ok", "halt"} <= set(outcomes)
    for model, limit in limits.items():
        told = billed.get(model, {})
        usage = Usage(
            input_tokens=told.get("input_tokens", 0), output_tokens=told.get("output_tokens", 0),
            cache_write_tokens=told.get("cache_creation_input_tokens", 0),
            cache_read_tokens=told.get("cache_read_input_tokens", 0),
        )  # fmt: skip
        assert cost(usage, PRICE) <= purse.ledgers[model].spent <= limit
        assert purse.ledgers[model].reserved == 0
