"""The ledger: no call is sent unless the most that it may cost still fits, so a limit in dollars is never exceeded.

In go attempts, twice: before one is sent it reserves its worst case, and when it has ended it is settled with what the
server billed. Out come the sums, by role and by model. A limit on the number of calls works without any price. The
ledger holds nothing on disk; a resumed run restores it from the transcript. What is not done here: deciding what a
refusal means for the search, and waiting for money that is reserved by calls in flight.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from nas.llm import LlmError, Reply, Request, Role, Usage
from nas.llm.price import Price, cost, dollars, price_of, worst_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An attempt that ended and may have been billed, or all attempts of a call of an earlier session together.

    Attributes:
      request: id of the request.
      role: what it was for.
      model: which model was asked.
      usage: what was used; None if the call never ended as far as is known.
      usd: what it cost [$], at most if `usage` is None; None if there is no price for it.
    """

    request: str
    role: Role
    model: str
    usage: Usage | None
    usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums over attempts.

    Attributes:
      calls: how many requests, however often each was sent.
      usage: tokens by kind; `estimated` if those of any attempt are.
      usd: what they cost [$], those without a price not counted.
      unpriced: attempts without a price.
    """

    calls: int
    usage: Usage
    usd: Decimal
    unpriced: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ticket:
    request: Request
    model: str
    price: Price | None
    bound: Decimal | None


class Ledger:
    """Money and calls of a run; any thread may use it.

    Args:
      limit_usd: most that the run may spend [$], what earlier sessions spent included; None for no limit.
      prices: prices that go before the table, by id of the model.
      limit_calls: most requests that may be sent, each counted once however often it is sent; None for no limit.
      before: called with the request and its bound [$] when an attempt has its reserve and is not sent yet; given
        `Transcript.begin`, a run that is killed knows of every attempt.
    """

    def __init__(
        self,
        limit_usd: Decimal | None = None,
        prices: Mapping[str, Price] | None = None,
        *,
        limit_calls: int | None = None,
        before: Callable[[Request, Decimal | None], None] | None = None,
    ) -> None:
        if limit_usd is not None and not (limit_usd.is_finite() and limit_usd >= 0):
            raise ValueError(f"a limit of {limit_usd} dollars is none; give 0 or more, or None for no limit")
        if limit_calls is not None and limit_calls < 0:
            raise ValueError(f"a limit of {limit_calls} calls is none; give 0 or more, or None for no limit")
        self.limit_usd, self.limit_calls = limit_usd, limit_calls
        self._prices, self._before = dict(prices or {}), before
        self._lock = threading.Lock()
        self._issued = 0
        self._open: dict[int, _Ticket] = {}
        self._settled: list[Settled] = []
        self._of_request: dict[str, Decimal | None] = {}
        self._asked: set[str] = set()
        self._spent = self._reserved = Decimal(0)
        self._overrun = ""

    # ---- one attempt

    def worst(self, request: Request, model: str | None = None) -> Decimal | None:
        """The most that one attempt may cost [$], or None if there is no price."""
        price = price_of(model or request.model, self._prices)
        return None if price is None else cost(worst_usage(request), price)

    def reserve(self, request: Request, model: str) -> int | None:
        """Ask for room for one attempt.

        Returns:
          A ticket, to be settled whatever happens; None if there is no room, and nothing may be sent.
        """
        price = price_of(model, self._prices)
        bound = self.worst(request, model)
        with self._lock:
            if self._obstacle(request, model, bound, self._reserved):
                return None
            self._issued += 1
            ticket = self._issued
            self._open[ticket] = _Ticket(request=request, model=model, price=price, bound=bound)
            self._reserved += bound or 0
            self._asked.add(request.id)
        if self._before is not None:
            try:
                self._before(request, bound)
            except BaseException:
                self.settle(ticket, None)
                raise
        return ticket

    def settle(self, ticket: int, usage: Usage | None) -> None:
        """Give back the reserve of an attempt that has ended, and count what it cost; a second time changes nothing.

        Args:
          ticket: as `reserve` returned it.
          usage: what the server billed, or `price.worst_usage` if it did not say; None if it certainly billed nothing.
        """
        with self._lock:
            if not 0 < ticket <= self._issued:
                raise ValueError(f"ticket {ticket} was never issued; settle what reserve() returned")
            entry = self._open.pop(ticket, None)
            if entry is None:
                return
            self._reserved -= entry.bound or 0
            if usage is None:
                return
            usd = None if entry.price is None else cost(usage, entry.price)
            request = entry.request
            self._add(Settled(request=request.id, role=request.role, model=entry.model, usage=usage, usd=usd))
            so_far = self._of_request.get(request.id, Decimal(0))
            self._of_request[request.id] = None if usd is None or so_far is None else so_far + usd
            if usd is not None and entry.bound is not None and usd > entry.bound:
                self._overrun = (
                    f"call '{request.id}' to '{entry.model}' was billed ${dollars(usd)}, more than the "
                    f"${dollars(entry.bound)} that it could cost, so no limit in dollars can be kept with this server; "
                    "limit the number of calls instead"
                )

    def would_fit(self, request: Request, model: str) -> bool:
        """Whether there would be room if all that is in flight cost nothing: if so, it is worth to wait for some."""
        bound = self.worst(request, model)
        with self._lock:
            return not self._obstacle(request, model, bound, Decimal(0))

    def why_not(self, request: Request, model: str) -> str:
        """Why there is no room for an attempt, as a sentence for a person; empty if there is."""
        bound = self.worst(request, model)
        with self._lock:
            return self._obstacle(request, model, bound, self._reserved)

    def _obstacle(self, request: Request, model: str, bound: Decimal | None, reserved: Decimal) -> str:
        """Under the lock."""
        if self.limit_calls is not None and request.id not in self._asked and len(self._asked) >= self.limit_calls:
            return f"all {self.limit_calls} calls to a model that were allowed have been made"
        if self.limit_usd is None:
            return ""
        if bound is None:
            return f"what '{model}' costs is not known, so the limit of ${dollars(self.limit_usd)} could not be kept"
        if self._overrun:
            return self._overrun
        if self._spent + reserved + bound > self.limit_usd:
            return (
                f"of ${dollars(self.limit_usd)} that may be spent on a model ${dollars(self._spent)} is spent and "
                f"${dollars(reserved)} reserved for calls in flight; the next may cost up to ${dollars(bound)}"
            )
        return ""

    def _add(self, settled: Settled) -> None:
        """Under the lock."""
        self._settled.append(settled)
        self._spent += settled.usd or 0
        self._asked.add(settled.request)

    # ---- a resumed run

    def restore(self, settled: Iterable[Settled]) -> None:
        """Count what earlier sessions of the run spent, or may have spent; see `Transcript.settled`.

        Raises:
          LlmError: there is a limit in dollars, and what a call cost is not known.
        """
        with self._lock:
            for entry in settled:
                self._add(self._with_price(entry))

    def _with_price(self, entry: Settled) -> Settled:
        if entry.usd is not None:
            return entry
        price = price_of(entry.model, self._prices)
        if price is not None and entry.usage is not None:
            usd = cost(entry.usage, price)
            return Settled(request=entry.request, role=entry.role, model=entry.model, usage=entry.usage, usd=usd)
        if self.limit_usd is not None:
            raise LlmError(
                f"what call '{entry.request}' to '{entry.model}' cost in an earlier session is not known, so a limit "
                "in dollars cannot be kept; give --price INPUT/OUTPUT from the start, or limit the number of calls"
            )
        return entry

    # ---- sums

    @property
    def spent(self) -> Decimal:
        """What has been settled [$], calls without a price not counted."""
        with self._lock:
            return self._spent

    @property
    def reserved(self) -> Decimal:
        """The most that the attempts in flight may cost [$]."""
        with self._lock:
            return self._reserved

    @property
    def calls(self) -> int:
        """How many requests were sent, each counted once."""
        with self._lock:
            return len(self._asked)

    @property
    def overrun(self) -> str:
        """A sentence, if a server ever billed more than the worst case; the limit in dollars is closed then."""
        with self._lock:
            return self._overrun

    @property
    def settled(self) -> tuple[Settled, ...]:
        """All that was counted, in order."""
        with self._lock:
            return tuple(self._settled)

    def cost(self, request: Request, reply: Reply) -> str | None:
        """What a call cost in this session, all its attempts together, in dollars; None if there is no price.

        A call that was never settled here, for instance one that was not sent, costs what its usage comes to.
        """
        with self._lock:
            if request.id in self._of_request:
                usd = self._of_request[request.id]
                return None if usd is None else dollars(usd)
        price = price_of(request.model, self._prices)
        return None if price is None else dollars(cost(reply.usage, price))

    def total(self) -> Total:
        """Sums over everything that was settled."""
        return _total(self.settled)

    def totals(self, by: Literal["role", "model"]) -> dict[str, Total]:
        """The same for each role or each model, in the order in which they were first settled."""
        groups: dict[str, list[Settled]] = {}
        for entry in self.settled:
            groups.setdefault(entry.role if by == "role" else entry.model, []).append(entry)
        return {name: _total(entries) for name, entries in groups.items()}

    def cached_share(self) -> float | None:
        """Share of all input tokens that were read from the cache, where the server said; None if it never did."""
        stated = [entry.usage for entry in self.settled if entry.usage is not None and not entry.usage.estimated]
        tokens = sum(usage.prompt_tokens for usage in stated)
        return sum(usage.cache_read_tokens for usage in stated) / tokens if tokens else None


def _total(entries: Iterable[Settled]) -> Total:
    entries = list(entries)
    usages = [entry.usage for entry in entries if entry.usage is not None]
    usage = Usage(
        input_tokens=sum(each.input_tokens for each in usages),
        cache_write_tokens=sum(each.cache_write_tokens for each in usages),
        cache_write_1h_tokens=sum(each.cache_write_1h_tokens for each in usages),
        cache_read_tokens=sum(each.cache_read_tokens for each in usages),
        output_tokens=sum(each.output_tokens for each in usages),
        estimated=len(usages) < len(entries) or any(each.estimated for each in usages),
    )
    usd = sum((entry.usd for entry in entries if entry.usd is not None), Decimal(0))
    unpriced = sum(entry.usd is None for entry in entries)
    return Total(calls=len({entry.request for entry in entries}), usage=usage, usd=usd, unpriced=unpriced)
