"""What tokens cost: one dated table, and the most that a call can come to.

In go the tokens of a call as its server billed them, or a request that is not sent yet; out come dollars, as `Decimal`,
so that sums are exact. A model that the table does not know has no price, and never the price 0. Deliberately absent:
prices from the network, the discount of batches, and what servers bill beside tokens, since nothing here asks for it.

The prices are those of Anthropic's API and of Bedrock's ids. What a platform adds that its model's id does not show
(a regional endpoint of Vertex, a workspace that is bound to one country) must be given with `--price`.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from nas.llm import LlmError, Request, Usage

AS_OF = "2026-11-21"
"""The day on which the table was right."""

MILLION = Decimal(1_000_000)

OVERHEAD_TOKENS = 1024
"""Tokens that a server may add to a prompt: the marks around each turn, and how to keep to a schema. Assumed, since no
server says how many; a ledger notices when it was too few."""

REGIONAL = Decimal("1.1")
"""What Bedrock multiplies the prices by where the model's id does not begin with `global.`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a million tokens cost [$].

    Attributes:
      input: of the prompt, neither written to nor read from the cache.
      output: of the reply.
      cache_write: of the prompt, kept for five minutes.
      cache_write_1h: of the prompt, kept for an hour; no other token of a prompt costs more.
      cache_read: of the prompt, as it was kept.
      above: number of tokens in a prompt above which the whole call costs `dearer`; None if there is no such number.
      dearer: the prices above it.
    """

    input: Decimal
    output: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal
    above: int | None = None
    dearer: "Price | None" = None

    def __post_init__(self) -> None:
        wrong = [rate for rate in self._rates() if not rate.is_finite() or rate < 0]
        if wrong:
            raise ValueError(f"a price of {wrong[0]} dollars per million tokens is none; give 0 or more")
        if self.cache_write_1h < max(self.input, self.cache_write, self.cache_read):
            raise ValueError(f"{self} is dearest elsewhere than at cache_write_1h, by which a call's bound is taken")
        if (self.above is None) is not (self.dearer is None):
            raise ValueError("above and dearer say one thing together; give both or neither")
        if self.dearer and any(low > high for low, high in zip(self._rates(), self.dearer._rates(), strict=True)):
            raise ValueError(f"{self} falls with a longer prompt, so that a call's bound would be none")

    def times(self, factor: Decimal) -> "Price":
        """All prices multiplied by a factor."""
        names = ("input", "output", "cache_write", "cache_write_1h", "cache_read")
        dearer = self.dearer and self.dearer.times(factor)
        return dataclasses.replace(self, dearer=dearer, **{name: getattr(self, name) * factor for name in names})

    def _rates(self) -> tuple[Decimal, ...]:
        return (self.input, self.output, self.cache_write, self.cache_write_1h, self.cache_read)


def rates(input: str, output: str, cache_read: str, above: int | None = None, dearer: Price | None = None) -> Price:
    """A price whose cache writes cost what all models of the table ask: 1.25 and 2 times the input."""
    plain = Decimal(input)
    return Price(
        input=plain, output=Decimal(output), cache_write=plain * Decimal("1.25"), cache_write_1h=plain * 2,
        cache_read=Decimal(cache_read), above=above, dearer=dearer,
    )  # fmt: skip


TABLE: Mapping[str, Price] = {
    "claude-fable-5-2": rates("8", "40", "0.2"),
    "claude-mythos-5-2": rates("8", "40", "0.2"),
    "claude-fable-5-1": rates("10", "50", "0.25"),
    "claude-mythos-5-1": rates("10", "50", "0.25"),
    "claude-fable-5": rates("10", "50", "1"),
    "claude-mythos-5": rates("10", "50", "1"),
    "claude-mythos-preview": rates("10", "50", "1"),
    "claude-opus-5-5": rates("4", "20", "0.2"),
    "claude-opus-5": rates("5", "25", "0.5"),
    "claude-opus-4-8": rates("5", "25", "0.5"),
    "claude-opus-4-7": rates("5", "25", "0.5"),
    "claude-opus-4-6": rates("5", "25", "0.5"),
    "claude-opus-4-5": rates("5", "25", "0.5"),
    "claude-sonnet-5-5": rates("2", "10", "0.1"),
    "claude-sonnet-5": rates("2", "10", "0.2"),
    "claude-sonnet-4-6": rates("3", "15", "0.3"),
    "claude-sonnet-4-5": rates("3", "15", "0.3", 200_000, rates("6", "22.5", "0.6")),
    "claude-haiku-5-5": rates("0.1", "0.5", "0.01", 100_000, rates("0.5", "2.5", "0.05")),
    "claude-haiku-4-5": rates("1", "5", "0.1"),
}
"""Prices by model, as of `AS_OF`; checked against an independent table by the tests."""

_BEDROCK = re.compile(r"(?:(?P<region>[a-z-]+)\.)?anthropic\.(?P<name>.+?)(?:-v\d+(?::\d+)?)?")
_ROUTES = ("anthropic/", "bedrock/", "vertex_ai/")


def price_of(model: str, extra: Mapping[str, Price] | None = None) -> Price | None:
    """Find what a model costs.

    Understands dated snapshots (`claude-sonnet-4-5-20250929`), Bedrock's ids (`us.anthropic.claude-opus-5-5`), which
    cost a tenth more unless they begin with `global.`, Vertex's (`claude-sonnet-4-5@20250929`), and a proxy's
    (`anthropic/claude-opus-5-5`).

    Args:
      model: the id that a request names.
      extra: prices that go before the table, by id as the request names it.
    Returns:
      The price, or None if nothing is known.
    """
    if extra and model in extra:
        return extra[model]
    name, factor = model, Decimal(1)
    for route in _ROUTES:
        name = name.removeprefix(route)
    if found := _BEDROCK.fullmatch(name):
        name, factor = found["name"], Decimal(1) if found["region"] == "global" else REGIONAL
    name = re.sub(r"@\w+$", "", name)
    price = TABLE.get(name) or TABLE.get(re.sub(r"-\d{8}$", "", name))
    return price if price is None or factor == 1 else price.times(factor)


def prices_for(models: Iterable[str], extra: Mapping[str, Price] | None = None) -> dict[str, Price]:
    """Look up the models of a search before it starts, if its money is to be counted.

    Raises:
      LlmError: a model has no price; a server of one's own is no exception, its price 0 must be stated.
    """
    prices = {}
    for model in models:
        price = price_of(model, extra)
        if price is None:
            raise LlmError(
                f"what the model '{model}' costs is not known (table of {AS_OF}); give --price INPUT/OUTPUT in dollars "
                "per million tokens, 0/0 for a server of your own, or limit the number of calls and not the dollars"
            )
        prices[model] = price
    return prices


def read_price(text: str) -> Price:
    """Read a price as it is given on the command line: `2/10`, `0/0`, or `2/10/0.2` with that of a cache read.

    Cache writes cost 1.25 and 2 times the input; a cache read costs as much as the input unless it is given.

    Raises:
      LlmError: the text is no such price.
    """
    try:
        numbers = [Decimal(part) for part in text.split("/")]
        if not 2 <= len(numbers) <= 3 or not all(number.is_finite() and number >= 0 for number in numbers):
            raise InvalidOperation
    except InvalidOperation:
        raise LlmError(
            f"'{text}' is no price; give INPUT/OUTPUT or INPUT/OUTPUT/CACHE_READ in dollars per million tokens, "
            "for instance 2/10"
        ) from None
    if numbers[-1] > numbers[0] and len(numbers) == 3:
        raise LlmError(f"'{text}' lets a read from the cache cost more than the input; the third number is at most it")
    return rates(str(numbers[0]), str(numbers[1]), str(numbers[2] if len(numbers) == 3 else numbers[0]))


def cost(usage: Usage, price: Price) -> Decimal:
    """What a call came to [$]; a count below 0, which only a broken server can send, is taken for 0."""
    if price.above is not None and price.dearer is not None and usage.prompt_tokens > price.above:
        price = price.dearer
    parts = (
        (usage.input_tokens, price.input),
        (usage.output_tokens, price.output),
        (usage.cache_write_tokens, price.cache_write),
        (usage.cache_write_1h_tokens, price.cache_write_1h),
        (usage.cache_read_tokens, price.cache_read),
    )
    return sum((max(0, tokens) * rate for tokens, rate in parts), Decimal(0)) / MILLION


def dollars(amount: Decimal) -> str:
    """An amount as text, exact and without an exponent: `0.0123`."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def worst(prompt_bytes: int, max_tokens: int, price: Price) -> Decimal:
    """An upper bound of what one attempt may cost [$].

    All of the prompt is written to the cache for an hour, at the dearest prices that its length allows, and every token
    of the reply is used. The prompt is taken to have as many tokens as bytes: no token is shorter than a byte.

    Args:
      prompt_bytes: length of what is sent, as UTF-8, with `OVERHEAD_TOKENS` for what the server adds.
      max_tokens: most tokens of the reply, thinking included.
    """
    return cost(Usage(cache_write_1h_tokens=prompt_bytes, output_tokens=max_tokens), price)


def worst_usage(request: Request) -> Usage:
    """The most that one attempt at a request may use, as `worst` counts it: what to settle where a server is silent."""
    return Usage(cache_write_1h_tokens=_prompt_bytes(request), output_tokens=request.max_tokens, estimated=True)


def _prompt_bytes(request: Request) -> int:
    schema = json.dumps(request.schema) if request.schema is not None else ""
    texts = [*request.system, *(text for _, text in request.messages), schema]
    return OVERHEAD_TOKENS + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
