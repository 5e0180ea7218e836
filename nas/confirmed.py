"""What a confirmation says, as cells, plain facts and sentences for every format of the leaderboard.

In go a board's confirmed rows; out come words and numbers. A claim is made against every baseline and corrected for the
number of finalists; rank intervals are another family of tests, so the two may differ. Nothing is estimated here.
"""

from collections.abc import Mapping
from typing import Any

from nas.judge.belief import LEVEL, Belief, Estimate
from nas.progress import moment
from nas.standings import Board, Confirmed

COLUMNS = (
    ("rank", "rank"), ("candidate", "id"), ("name", "idea or name"), ("arm", "arm"), ("claim", "claim"),
    ("test", "test"), ("test_error", "±"), ("validation", "fresh val"), ("validation_error", "± "), ("seeds", "n"),
    ("luck", "luck"), ("luck_error", "±  "), ("split_reuse", "reuse"), ("split_reuse_error", "±   "),
    ("params", "params"), ("flops", "FLOPs"), ("step", "step"), ("inference", "infer"), ("match", "match"),
)  # fmt: skip
"""Of the table of confirmed rows: key and heading. Spaces tell headings apart."""
DROPPED = (
    "inference", "flops", "split_reuse_error", "step", "luck_error", "validation_error", "split_reuse", "validation",
    "arm", "params", "luck", "match", "rank",
)  # fmt: skip
"""Columns that go, in this order, where the terminal is too narrow."""
LARGEST_SHARED = 0.25
"""Error of the shared test split, in sigmas of a seed, above which a reader is warned."""
FACTS = (
    "claim", "p", "rank_from", "rank_to", "test", "test_error", "fresh_validation", "fresh_validation_error",
    "fresh_seeds", "failed_seeds", "luck", "luck_error", "split_reuse", "split_reuse_error", "inference_us",
    "match_steps", "match_flops", "match_ratio", "match_low", "match_high",
)  # fmt: skip
"""What a program reads of a confirmed row, beside what the search says of it."""


def claim(belief: Belief) -> str:
    """Whether a row is claimed to beat every baseline, in a word; of a baseline a dash."""
    if belief.claim is None:
        return "–"
    if belief.claim.claimed:
        return "yes"
    return f"no: {belief.claim.barred}" if belief.claim.barred else "no"


def cells(one: Confirmed, board: Board) -> dict[str, str]:
    """A confirmed row as a person reads it, but for `params`, `flops` and `step`, which its row of the search has."""
    belief, digits = one.belief, board.config["decimals"]
    first, last = belief.rank or (None, None)
    found = {
        "rank": "–" if first is None else f"{first}" if first == last else f"{first}–{last}",
        "candidate": str(one.row.candidate),
        "name": one.row.name or "(no idea given)",
        "arm": one.row.arm,
        "claim": "no" if belief.claim and belief.claim.barred == "too few seeds" else claim(belief),
        "seeds": str(belief.seeds) + (f" ({belief.failed} failed)" if belief.failed else ""),
    }
    for key in ("test", "validation", "luck", "split_reuse"):
        estimate: Estimate | None = getattr(belief, key)
        sign = "+" if key in ("luck", "split_reuse") else ""
        found[key] = "–" if estimate is None else f"{estimate.value:{sign}.{digits}f}"
        error = None if estimate is None else estimate.error
        found[f"{key}_error"] = "–" if error is None else f"{error:.{digits}f}"
    inference, matched = board.costs.of(one.row.candidate).inference_s, board.matches.get(one.row.candidate)
    found["inference"] = "–" if inference is None else moment(inference)
    found["match"] = "–" if matched is None else "never" if matched.ratio is None else f"{matched.ratio:.2f}×"
    return found


def facts(one: Confirmed | None, board: Board) -> dict[str, Any]:
    """The same for a program; nothing but None for a row that is not confirmed."""
    if one is None:
        return dict.fromkeys(FACTS)
    belief, digits = one.belief, board.config["decimals"] + 2
    first, last = belief.rank or (None, None)
    made: dict[str, Any] = {
        "claim": claim(belief) if belief.claim else None,
        "p": None if belief.claim is None else float(f"{belief.claim.adjusted:.3g}"),
        "rank_from": first,
        "rank_to": last,
        "fresh_seeds": belief.seeds,
        "failed_seeds": belief.failed,
    }
    names = {"test": "test", "validation": "fresh_validation", "luck": "luck", "split_reuse": "split_reuse"}
    for key, name in names.items():
        estimate: Estimate | None = getattr(belief, key)
        made[name] = None if estimate is None else round(estimate.value, digits)
        made[f"{name}_error"] = None if estimate is None or estimate.error is None else round(estimate.error, digits)
    inference, matched = board.costs.of(one.row.candidate).inference_s, board.matches.get(one.row.candidate)
    made["inference_us"] = None if inference is None else round(1e6 * inference, 3)
    for key in ("steps", "flops", "ratio", "low", "high"):
        value = None if matched is None else getattr(matched, key)
        made[f"match_{key}"] = None if value is None else float(f"{value:.4g}")
    return {key: made[key] for key in FACTS}


def summary(board: Board) -> str:
    """What may be claimed, in one sentence."""
    finalists = [one for one in board.confirmed if one.belief.claim is not None]
    claimed = [one for one in finalists if one.belief.claim and one.belief.claim.claimed]
    count = f"{len(finalists)} finalist{'s' * (len(finalists) != 1)}"
    if len(board.confirmed) == len(finalists):
        return f"no claim yet: the confirmation is not finished, of {count} and no baseline there are fresh seeds"
    if not claimed:
        return f"no claim: of {count} none is shown to beat every baseline on the test split"
    best, digits = claimed[0], board.config["decimals"]
    assert best.belief.test is not None, "a claim without a test score"
    names = ", ".join(str(one.row.candidate) for one in claimed)
    which = f"{len(claimed)} of {count} (candidate{'s' * (len(claimed) > 1)} {names})"
    return (
        f"confirmed: {which} beat every baseline on the test split; best {best.row.candidate} with "
        f"{best.belief.test.value:.{digits}f}{_effect(best, board)}"
    )


def _effect(one: Confirmed, board: Board) -> str:
    effect, digits = one.belief.claim.effect if one.belief.claim else None, board.config["decimals"]
    if effect is None:
        return ""
    low, high = effect.interval()
    against = next((other.row.name for other in board.confirmed if other.row.candidate == effect.against), "?")
    sigmas = effect.in_sigmas()
    more = f", {sigmas[0]:+.1f}σ of a seed" if sigmas else ""
    return f", {effect.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] over {against}{more}"


def notes(board: Board) -> list[str]:
    """What a reader must know to read the table of confirmed rows."""
    looked = ", ".join(f"{split} {count:,}" for split, count in board.accesses.items())
    return [
        "confirmed: trained again at the top rung with n fresh seeds and scored once on the test split, mean ± "
        f"standard error. Claim: better than every baseline, p ≤ {LEVEL:g} after Holm over the finalists. Rank: places "
        "that the test score allows, all pairs, Holm. A finalist with two seeds was ruled out by them.",
        "luck: score of the search minus fresh validation. Reuse: validation minus test, less the baselines' mean of "
        f"the same. Baselines: numbers from draws of their own. Splits were looked at: {looked}",
        *warnings(board),
    ]


def _speed(board: Board) -> list[str]:
    """What the columns of time and of compute mean, with the best finalist's interval."""
    told = []
    if any(board.costs.of(one.row.candidate).inference_s for one in board.confirmed):
        told.append(f"infer: time of one example in a large batch, fastest of several, on {board.costs.device}.")
    if board.matches:
        told.append(
            "match: training FLOPs until the mean validation score of fresh seeds reaches the best baseline's at its "
            "end, over that baseline's own."
        )
    for one in board.confirmed:
        found = board.matches.get(one.row.candidate)
        if one.belief.claim is not None and found is not None and found.ratio is not None and found.low is not None:
            high = "more than was tried" if found.high is None else f"{found.high:.2f}"
            told.append(f"Candidate {one.row.candidate}: {found.ratio:.2f} [{found.low:.2f}, {high}].")
            break
    return [" ".join(told)] if told else []


def warnings(board: Board) -> list[str]:
    """What weakens the claims: a test split so small that it, and not the seeds, decides."""
    effects = [one.belief.claim.effect for one in board.confirmed if one.belief.claim and one.belief.claim.effect]
    shared = max((effect.shared_error / effect.sigma for effect in effects if effect.sigma), default=0.0)
    if shared <= LARGEST_SHARED:
        return []
    text = f"warning: the test split alone adds an error of up to {shared:.2f}σ of a seed to a difference"
    return [f"{text}; more than {LARGEST_SHARED:g}σ costs power, and more test examples lower it"]


def by_candidate(board: Board) -> Mapping[int, Confirmed]:
    """Confirmed rows by the candidate's id."""
    return {one.row.candidate: one for one in board.confirmed}
