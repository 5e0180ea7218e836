"""Prices and the ledger: no dollar more than the limit, and none that is not counted."""

import dataclasses
import itertools
import random
import socket
import threading
from decimal import Decimal

import pytest

from nas.llm import LlmError, Reply, Request, Role, Usage
from nas.llm.client import Purse
from nas.llm.ledger import Ledger, Settled
from nas.llm.price import (
    OVERHEAD_TOKENS,
    TABLE,
    cost,
    dollars,
    price_of,
    prices_for,
    rates,
    read_price,
    worst,
    worst_usage,
)

SONNET = "claude-sonnet-5-5"
HAIKU = "claude-haiku-5-5"
UNKNOWN = "qwen3-coder"


def ask(id: str = "1.code", *, model: str = SONNET, text: str = "write", max_tokens: int = 1000) -> Request:
    role: Role = "forecast" if id.endswith("forecast") else "propose"
    return Request(
        id=id, role=role, model=model, system=("rules",), messages=(("user", text),), max_tokens=max_tokens
    )  # fmt: skip


def at_most(rng: random.Random, bound: Usage) -> Usage:
    """A usage that a server may bill for an attempt with this bound."""
    cuts = sorted(rng.randint(0, bound.prompt_tokens) for _ in range(4))
    output = rng.choice([0, bound.output_tokens, rng.randint(0, bound.output_tokens)])
    return Usage(
        input_tokens=cuts[0], cache_write_tokens=cuts[1] - cuts[0], cache_write_1h_tokens=cuts[2] - cuts[1],
        cache_read_tokens=cuts[3] - cuts[2], output_tokens=output,
    )  # fmt: skip


# ---- price


def no_network(*_: object) -> None:
    raise AssertionError("a table of prices reached for the network")


@pytest.mark.parametrize(
    ("provider", "prefix"), [("anthropic", ""), ("aws", "global.anthropic."), ("aws", "us.anthropic.")]
)
def test_table_equals_an_independent_one(provider: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import genai_prices

    monkeypatch.setattr(socket.socket, "connect", no_network)
    kinds = itertools.product((0, 90_000, 150_000), (0, 1000), (0, 777, 60_000), (0, 10_000), (0, 500, 30_000))
    combinations = list(kinds)
    known = 0
    for model in TABLE:
        price = price_of(prefix + model)
        assert price is not None
        for plain, write, write_1h, read, output in combinations:
            usage = Usage(
                input_tokens=plain, cache_write_tokens=write, cache_write_1h_tokens=write_1h, cache_read_tokens=read,
                output_tokens=output,
            )  # fmt: skip
            theirs = genai_prices.Usage(
                input_tokens=usage.prompt_tokens, cache_write_tokens=write + write_1h, cache_write_1h_tokens=write_1h,
                cache_read_tokens=read, output_tokens=output,
            )  # fmt: skip
            try:
                expected = genai_prices.calc_price(theirs, prefix + model, provider_id=provider).total_price
            except LookupError:
                break
            assert cost(usage, price) == expected, (model, usage)
        else:
            known += 1
    assert known >= 14


def test_every_model_of_the_sdk_has_a_price() -> None:
    import typing

    from anthropic.types import Model

    literal = typing.get_args(Model)[0]
    assert [model for model in typing.get_args(literal) if price_of(model) is None] == []


@pytest.mark.parametrize(
    ("model", "dollars_of_input"),
    [
        ("claude-sonnet-4-5-20250929", "3"),
        ("claude-sonnet-4-5@20250929", "3"),
        ("claude-opus-4-6@default", "5"),
        ("anthropic/claude-opus-5-5", "4"),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "3"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3"),
        ("anthropic.claude-opus-5-5", "4.4"),
        ("bedrock/us-gov.anthropic.claude-haiku-4-5-20251001-v1:0", "1.1"),
    ],
)
def test_price_of_knows_a_model_under_other_names(model: str, dollars_of_input: str) -> None:
    price = price_of(model)
    assert price is not None and price.input == Decimal(dollars_of_input)


@pytest.mark.parametrize(
    "model", ["claude-opus-5-1", "claude-opus-4-50", "claude-opus-6", "claude-opus-5-5-turbo", "my/claude-opus-5-5", ""]
)
def test_price_of_guesses_no_price(model: str) -> None:
    assert price_of(model) is None


def test_a_given_price_goes_before_the_table() -> None:
    given = {SONNET: read_price("7/8"), UNKNOWN: read_price("0/0")}
    assert price_of(SONNET, given) == given[SONNET]
    assert prices_for([SONNET, UNKNOWN, HAIKU], given) == {**given, HAIKU: TABLE[HAIKU]}


def test_a_search_with_an_unknown_price_does_not_start() -> None:
    with pytest.raises(LlmError, match=r"'qwen3-coder'.*--price INPUT/OUTPUT.*0/0.*number of calls") as error:
        prices_for([SONNET, UNKNOWN])
    assert "\n" not in str(error.value)


def test_read_price_derives_what_is_not_given() -> None:
    price = read_price("2/10")
    assert (price.input, price.output) == (2, 10)
    assert (price.cache_write, price.cache_write_1h, price.cache_read) == (Decimal("2.5"), 4, 2)
    assert read_price("2/10/0.2").cache_read == Decimal("0.2")
    assert cost(Usage(input_tokens=10**9, output_tokens=10**9), read_price("0/0")) == 0


@pytest.mark.parametrize("text", ["", "2", "2/", "2/10/1/1", "-1/2", "nan/1", "inf/1", "2,5/3", "$2/10", "2/10/3"])
def test_read_price_refuses_what_is_no_price(text: str) -> None:
    with pytest.raises(LlmError, match="third number is at most|is no price; give INPUT/OUTPUT"):
        read_price(text)


def test_a_price_whose_bound_would_be_none_cannot_be_made() -> None:
    one = rates("1", "1", "1")
    for wrong in ({"cache_read": Decimal(3)}, {"output": Decimal(-1)}, {"input": Decimal("NaN")}):
        with pytest.raises(ValueError, match="dearest elsewhere|is none"):
            dataclasses.replace(one, **wrong)
    with pytest.raises(ValueError, match="give both or neither"):
        rates("1", "1", "1", 100)
    with pytest.raises(ValueError, match="falls with a longer prompt"):
        rates("2", "1", "1", 100, rates("1", "1", "1"))


@pytest.mark.parametrize("model", TABLE)
def test_worst_bounds_every_usage(model: str) -> None:
    rng = random.Random(model)
    price = TABLE[model]
    for _ in range(200):
        request = ask(
            model=model, text="x" * rng.choice([1, 99_000, 100_500, 250_000]), max_tokens=rng.randint(1, 50_000)
        )
        bound = worst(worst_usage(request).prompt_tokens, request.max_tokens, price)
        assert cost(at_most(rng, worst_usage(request)), price) <= bound
        assert bound == cost(worst_usage(request), price)


def test_the_prompts_bound_counts_bytes_of_all_that_is_sent() -> None:
    plain = ask(text="")
    assert worst_usage(plain).prompt_tokens == OVERHEAD_TOKENS + len("rules")
    assert worst_usage(ask(text="é𝄞\ud800")).prompt_tokens == OVERHEAD_TOKENS + len("rules") + 2 + 4 + 3
    schema = Request(
        id="1", role="forecast", model=SONNET, system=(), messages=(), max_tokens=1, schema={"type": "object"}
    )
    assert worst_usage(schema).prompt_tokens == OVERHEAD_TOKENS + len('{"type": "object"}')


def test_a_tier_is_that_of_the_whole_prompt() -> None:
    low = Usage(cache_read_tokens=100_000, output_tokens=1000)
    high = Usage(cache_read_tokens=100_000, input_tokens=1, output_tokens=1000)
    assert cost(low, TABLE[HAIKU]) == Decimal("0.0015")
    assert cost(high, TABLE[HAIKU]) == Decimal("0.0075005")


def test_a_negative_count_earns_no_money() -> None:
    assert cost(Usage(input_tokens=-(10**9), output_tokens=1_000_000), TABLE[SONNET]) == 10


@pytest.mark.parametrize(("amount", "text"), [("0E-6", "0"), ("1E+3", "1000"), ("0.01200", "0.012"), ("5", "5")])
def test_dollars_are_exact_and_plain(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text


# ---- ledger


@pytest.mark.parametrize("block", range(10))
def test_the_limit_is_never_exceeded(block: int) -> None:
    """A thousand sequences of attempts, several in flight, each settled with anything up to its worst case."""
    refused = 0
    for seed in range(100 * block, 100 * block + 100):
        rng = random.Random(seed)
        limit = Decimal(rng.randint(1, 400)) / 1000
        ledger = Ledger(limit)
        in_flight: dict[int, Request] = {}
        plain = Decimal(0)
        for n in range(60):
            if in_flight and rng.random() < 0.5:
                ticket = rng.choice(list(in_flight))
                request = in_flight.pop(ticket)
                usage = None if rng.random() < 0.1 else at_most(rng, worst_usage(request))
                for _ in range(rng.choice([1, 1, 2])):
                    ledger.settle(ticket, usage)
                plain += cost(usage, TABLE[request.model]) if usage else 0
            else:
                model = rng.choice([SONNET, HAIKU])
                request = ask(
                    f"{n}.code", model=model, text="x" * rng.randint(1, 9000), max_tokens=rng.randint(1, 2000)
                )
                ticket = ledger.reserve(request, model)
                if ticket is None:
                    refused += 1
                    assert ledger.why_not(request, model)
                else:
                    in_flight[ticket] = request
            assert ledger.spent == plain
            assert ledger.spent + ledger.reserved <= limit
            assert ledger.reserved == sum(cost(worst_usage(each), TABLE[each.model]) for each in in_flight.values())
        assert ledger.overrun == ""
        assert sum((entry.usd for entry in ledger.settled if entry.usd is not None), Decimal(0)) == plain
    assert refused > 100


def test_threads_keep_the_limit_and_lose_nothing() -> None:
    limit = Decimal("2")
    ledger = Ledger(limit)
    billed: list[Decimal] = []
    seen: list[Decimal] = []

    def work(name: int) -> None:
        rng = random.Random(name)
        for n in range(150):
            request = ask(f"{name}.{n}", text="x" * rng.randint(1, 5000))
            ticket = ledger.reserve(request, SONNET)
            seen.append(ledger.spent)
            if ticket is not None:
                usage = at_most(rng, worst_usage(request))
                ledger.settle(ticket, usage)
                billed.append(cost(usage, TABLE[SONNET]))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.reserved == 0
    assert ledger.spent == sum(billed) and max(seen) <= ledger.spent <= limit
    assert len(ledger.settled) == len(billed) > 50


def test_a_ledger_is_what_the_client_asks_for() -> None:
    purse: Purse = Ledger(Decimal(1))
    ticket = purse.reserve(ask(), SONNET)
    assert ticket is not None
    purse.settle(ticket, Usage(input_tokens=1_000))
    assert isinstance(purse, Ledger) and purse.spent == Decimal("0.002")


def test_waiting_helps_only_while_something_is_in_flight() -> None:
    request, bound = ask(), cost(worst_usage(ask()), TABLE[SONNET])
    ledger = Ledger(bound * 2 - Decimal("0.000001"))
    ticket = ledger.reserve(request, SONNET)
    assert ticket is not None
    assert ledger.reserve(ask("2.code"), SONNET) is None
    assert ledger.would_fit(ask("2.code"), SONNET)
    ledger.settle(ticket, worst_usage(request))
    assert not ledger.would_fit(ask("2.code"), SONNET)
    assert f"${dollars(bound)} is spent" in ledger.why_not(ask("2.code"), SONNET)


def test_a_limit_that_just_fits_is_enough() -> None:
    bound = cost(worst_usage(ask()), TABLE[SONNET])
    assert Ledger(bound).reserve(ask(), SONNET) is not None
    assert Ledger(bound - Decimal("0.000001")).reserve(ask(), SONNET) is None


def test_a_server_that_bills_more_than_the_worst_case_closes_the_limit() -> None:
    ledger = Ledger(Decimal(100))
    ticket = ledger.reserve(ask(), SONNET)
    assert ticket is not None and ledger.overrun == ""
    ledger.settle(ticket, Usage(output_tokens=1001, cache_write_1h_tokens=worst_usage(ask()).prompt_tokens))
    assert "'1.code'" in ledger.overrun and ledger.spent > cost(worst_usage(ask()), TABLE[SONNET])
    assert ledger.reserve(ask("2.code"), SONNET) is None
    assert ledger.why_not(ask("2.code"), SONNET) == ledger.overrun


def test_settling_what_was_never_reserved_is_an_error() -> None:
    with pytest.raises(ValueError, match="ticket 1 was never issued"):
        Ledger().settle(1, Usage())


@pytest.mark.parametrize("limit", ["-1", "NaN", "Infinity"])
def test_a_limit_that_is_none_is_an_error(limit: str) -> None:
    with pytest.raises(ValueError, match="dollars is none"):
        Ledger(Decimal(limit))


def test_an_unknown_price_fits_no_limit_in_dollars_and_is_never_0() -> None:
    request = ask(model=UNKNOWN)
    assert Ledger(Decimal(10)).reserve(request, UNKNOWN) is None
    assert "is not known" in Ledger(Decimal(10)).why_not(request, UNKNOWN)
    free = Ledger(limit_calls=1)
    ticket = free.reserve(request, UNKNOWN)
    assert ticket is not None and free.worst(request) is None
    free.settle(ticket, Usage(input_tokens=5))
    assert free.settled[0].usd is None and free.total().unpriced == 1
    assert free.cost(request, Reply(outcome="ok")) is None


def test_a_stated_price_of_0_fits_any_limit() -> None:
    ledger = Ledger(Decimal(0), {UNKNOWN: read_price("0/0")})
    ticket = ledger.reserve(ask(model=UNKNOWN), UNKNOWN)
    assert ticket is not None
    ledger.settle(ticket, Usage(input_tokens=5))
    assert ledger.settled[0].usd == 0 and ledger.total().unpriced == 0


def test_the_limit_of_calls_counts_a_request_once() -> None:
    ledger = Ledger(limit_calls=2)
    for id in ("1.code", "1.code", "2.code", "1.code"):
        ticket = ledger.reserve(ask(id, model=UNKNOWN), UNKNOWN)
        assert ticket is not None
        ledger.settle(ticket, None)
    assert ledger.reserve(ask("3.code", model=UNKNOWN), UNKNOWN) is None
    assert ledger.calls == 2 and "all 2 calls" in ledger.why_not(ask("3.code"), UNKNOWN)


def test_sums_by_role_and_by_model() -> None:
    ledger = Ledger()
    usages = {
        ("1.code", SONNET): Usage(input_tokens=100, cache_write_tokens=1000, output_tokens=10),
        ("2.forecast", SONNET): Usage(input_tokens=100, cache_read_tokens=1000, output_tokens=20),
        ("3.code", HAIKU): Usage(input_tokens=100, cache_read_tokens=700, output_tokens=30),
        ("4.code", HAIKU): Usage(cache_write_1h_tokens=5000, output_tokens=1000, estimated=True),
    }
    for (id, model), usage in usages.items():
        ticket = ledger.reserve(ask(id, model=model), model)
        assert ticket is not None
        ledger.settle(ticket, usage)
    roles, models = ledger.totals("role"), ledger.totals("model")
    assert {name: total.calls for name, total in roles.items()} == {"propose": 3, "forecast": 1}
    assert models[SONNET].usage == Usage(
        input_tokens=200, cache_write_tokens=1000, cache_read_tokens=1000, output_tokens=30
    )
    assert models[HAIKU].usage.estimated and not models[SONNET].usage.estimated
    for group in (roles, models):
        assert sum(total.usd for total in group.values()) == ledger.spent == ledger.total().usd
    assert ledger.cached_share() == 1700 / 3000
    assert Ledger().cached_share() is None


def test_a_calls_cost_is_that_of_its_attempts_in_this_session() -> None:
    ledger = Ledger()
    ledger.restore([Settled(request="1.code", role="propose", model=SONNET, usage=None, usd=Decimal(3))])
    for usage in (Usage(output_tokens=100), None, Usage(output_tokens=200)):
        ticket = ledger.reserve(ask(), SONNET)
        assert ticket is not None
        ledger.settle(ticket, usage)
    assert ledger.cost(ask(), Reply(outcome="ok")) == "0.003"
    assert ledger.cost(ask("2.code"), Reply(outcome="halt")) == "0"
    assert ledger.cost(ask("2.code"), Reply(outcome="ok", usage=Usage(output_tokens=100))) == "0.001"


def test_before_hears_of_every_attempt_that_has_room() -> None:
    heard: list[tuple[str, Decimal | None]] = []
    ledger = Ledger(Decimal("0.02"), before=lambda request, bound: heard.append((request.id, bound)))
    assert ledger.reserve(ask("1.code"), SONNET) is not None
    assert ledger.reserve(ask("2.code"), SONNET) is None
    assert heard == [("1.code", cost(worst_usage(ask()), TABLE[SONNET]))]


def test_an_attempt_that_cannot_be_noted_holds_no_money() -> None:
    def fail(request: Request, bound: Decimal | None) -> None:
        raise LlmError("no room on the disk")

    ledger = Ledger(Decimal(1), before=fail)
    with pytest.raises(LlmError, match="no room"):
        ledger.reserve(ask(), SONNET)
    assert ledger.reserved == 0


def test_a_restored_ledger_stops_where_the_first_would_have() -> None:
    rng = random.Random(5)
    limit = Decimal("0.3")
    whole = Ledger(limit)
    for n in range(200):
        request = ask(f"{n}.code")
        ticket = whole.reserve(request, SONNET)
        if ticket is None:
            break
        whole.settle(ticket, at_most(rng, worst_usage(request)))
    assert 5 < whole.calls < 200
    for kept in range(0, whole.calls + 1, 3):
        second = Ledger(limit)
        second.restore(whole.settled[:kept])
        for entry in whole.settled[kept:]:
            ticket = second.reserve(ask(entry.request), SONNET)
            assert ticket is not None
            second.settle(ticket, entry.usage)
        assert second.reserve(ask("last"), SONNET) is None
        assert (second.spent, second.calls, second.settled) == (whole.spent, whole.calls, whole.settled)


def test_restoring_what_has_no_price_needs_no_limit_in_dollars() -> None:
    open_call = Settled(request="1.code", role="propose", model=UNKNOWN, usage=None, usd=None)
    ended = Settled(request="2.code", role="propose", model=UNKNOWN, usage=Usage(output_tokens=1_000_000), usd=None)
    with pytest.raises(LlmError, match="not known"):
        Ledger(Decimal(5)).restore([open_call])
    priced = Ledger(Decimal(50), {UNKNOWN: read_price("1/10")})
    priced.restore([ended])
    assert priced.spent == 10
    free = Ledger(limit_calls=2)
    free.restore([open_call, ended])
    assert free.total().unpriced == 2 and free.reserve(ask("3.code", model=UNKNOWN), UNKNOWN) is None
