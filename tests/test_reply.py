"""Replies of a model are read exactly or not at all, whatever a module or a text in them holds."""

import json
import math
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from nas.admit import gate
from nas.propose.reply import (
    IDEAS,
    META_LENGTH,
    PARENTS,
    REPLY_LENGTH,
    TEXT_LENGTH,
    WORD_LENGTH,
    BadReply,
    parse_forecasts,
    parse_ideas,
    parse_proposal,
    plain,
)

META = {"hypothesis": "`max` keeps the sign", "refutes": "no better than #3", "parents": [3, 7], "kind": "free"}
SOURCE = '"""An idea."""\n\nx = 1\n'


def written(source: str, meta: str = json.dumps(META), fence: str = "") -> str:
    """A reply as a model writes it."""
    module = f"{fence}python\n{source}{fence}\n" if fence else source
    return f"I will change one thing.\n\n<meta>\n{meta}\n</meta>\n\n<code>\n{module}</code>\nDone."


# ---- proposals

MODULES = 320


def _is_python(source: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "<module>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return bool(source.strip())


@cache
def modules() -> list[str]:
    """Every n-th module of three large packages, so that there are a little more than `MODULES`."""
    folders = [Path(str(find_spec(name).origin)).parent for name in ("flax", "optax", "jax")]  # pyright: ignore
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py")) if path.stat().st_size]
    texts = [path.read_text("utf-8") for path in paths[:: max(1, len(paths) // (MODULES + 40))]]
    return [text if text.endswith("\n") else text + "\n" for text in texts if _is_python(text)]


@pytest.mark.parametrize("fence", ["", "```", "~~~~"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_modules_of_installed_packages_are_read_back_exactly(fence: str, end: str) -> None:
    assert len(modules()) >= MODULES
    for source in modules():
        proposal = parse_proposal(written(source, fence=fence).replace("\n", end))
        assert proposal.source == source


@pytest.mark.parametrize(
    "source",
    [
        'x = """\n</code>\n"""\n',
        'x = """\n<code>\n</code>\n<code>\n"""\n',
        'x = """\n```python\ny\n```\n"""\n',
        'x = """\n<meta>\n{}\n</meta>\n"""\n',
        "x = '<code></code><meta></meta>'  # ``` </code>\n",
        '"""\f\x0b\u2028\u0085 <code>"""\n',
        "\n\n  \nx = 1\n\n\n",
        "x = 1\ry = 2\n",
    ],
)
@pytest.mark.parametrize("fence", ["", "```", "````"])
def test_no_content_of_a_module_breaks_it(source: str, fence: str) -> None:
    assert parse_proposal(written(source, fence=fence)).source == source


def test_facts_are_read() -> None:
    proposal = parse_proposal(written(SOURCE))
    assert (proposal.hypothesis, proposal.refutes) == ("`max` keeps the sign", "no better than #3")
    assert (proposal.parents, proposal.kind) == ((3, 7), "free")


@pytest.mark.parametrize(
    ("meta", "parents"),
    [
        ("{}", ()),
        ('```json\n{"parents": []}\n```', ()),
        ('{"parents": null, "hypothesis": null}', ()),
        ('{"parents": ["#12", "3", 3]}', (12, 3)),
        ('{"hypothesis": "over\ntwo lines", "unknown": {"a": [1]}}', ()),
        (json.dumps({"parents": list(range(99))}), tuple(range(PARENTS))),
    ],
)
def test_facts_may_be_left_out_or_dressed_up(meta: str, parents: tuple[int, ...]) -> None:
    assert parse_proposal(written(SOURCE, meta)).parents == parents


def test_facts_may_stand_on_one_line() -> None:
    text = f'<meta>{{"kind": "free"}}</meta>\n<code>\n{SOURCE}</code>'
    assert parse_proposal(text).kind == "free"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no <meta> block before"),
        ("I can't do that.", "no <meta> block before"),
        (f"<code>\n{SOURCE}</code>", "no <meta> block before"),
        (f"<code>\nx = '''\n<meta>\n{{}}\n</meta>\n<code>\n'''\n</code>\n{SOURCE}", "no <meta> block before"),
        (f"```python\n{SOURCE}```", "no <meta> block before"),
        (f"<meta>\n{{}}\n<code>\n{SOURCE}</code>", "not closed by </meta>"),
        (f"<meta>\n{{'a': 1}}\n</meta>\n<code>\n{SOURCE}</code>", "not a JSON object: Expecting .* line 1 column 2"),
        (f"<meta>\n</meta>\n<code>\n{SOURCE}</code>", "there is no object in it"),
        (f"<meta>\n[1]\n</meta>\n<code>\n{SOURCE}</code>", "there is no object in it"),
        (written(SOURCE, '{"a": ' + "[" * 5000 + "]" * 5000 + "}"), "not a JSON object"),
        (written(SOURCE, '{"a": ' + "9" * 5000 + "}"), "not a JSON object"),
        (written(SOURCE, json.dumps({"a": "b" * META_LENGTH})), f"write at most {META_LENGTH:,}"),
        (written(SOURCE, '{"hypothesis": ["a"]}'), '"hypothesis" in the <meta> block is \\["a"\\]'),
        (written(SOURCE, '{"kind": true}'), '"kind" in the <meta> block is true'),
        (written(SOURCE, '{"parents": 3}'), '"parents" in the <meta> block is 3'),
        (written(SOURCE, '{"parents": [true]}'), '"parents" in the <meta> block is \\[true\\]'),
        (written(SOURCE, '{"parents": [1.5]}'), '"parents" in the <meta> block'),
        (written(SOURCE, '{"parents": ["a"]}'), '"parents" in the <meta> block'),
        (written(SOURCE).partition("</code>")[0], "not closed by a line"),
        (written(SOURCE).replace("</code>", "</code> Done"), "not closed by a line"),
        (written(SOURCE).replace("<code>", "<code> Here:"), "no line that is <code> alone"),
        (written("\n \n"), "is empty"),
        (written("", fence="```"), "is empty"),
        (written(SOURCE, fence="```").replace("```\n</code>", "</code>"), "fence ``` in the <code> block is not"),
        (written(SOURCE, fence="````").replace("````\n</code>", "```\n</code>"), "fence ```` in the <code> block"),
        (written("x = '\ud800'\n"), "surrogate"),
        ("<meta>" * (REPLY_LENGTH // 6 + 1), f"write at most {REPLY_LENGTH:,}"),
    ],
)
def test_bad_reply_is_told_in_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(BadReply, match=reason) as caught:
        parse_proposal(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_reply_cut_anywhere_is_never_used() -> None:
    text = written(SOURCE + 'y = """\n</code>\n"""\n', fence="```").removesuffix("\nDone.")
    for length in range(len(text)):
        try:
            source = parse_proposal(text[:length]).source
        except BadReply:
            continue
        assert gate.check(source, "Model").failures[0].rule == "syntax", length


@pytest.mark.parametrize("between", ["</code>\nNo, better:\n<code>\n", "</code>\n" + written(SOURCE)])
def test_second_block_is_found_by_the_gate(between: str) -> None:
    source = parse_proposal(written(f"x = 1\n{between}y = 2\n")).source
    (failure,) = gate.check(source, "Model").failures
    assert failure.rule == "syntax" and failure.line is not None


def test_long_hostile_reply_is_read_in_linear_time() -> None:
    for part in ("<meta>\n", "<code>\n", "</code>\n", "</meta> \t", "```\n", " \t", "\n"):
        with pytest.raises(BadReply):
            parse_proposal("<meta>\n{}\n</meta>\n<code>\n```\n" + part * (900_000 // len(part)) + "!")


# ---- ideas


def ideas(block: str, before: str = "Here are five.\n", after: str = "\nThat is all.") -> list[tuple[str, float]]:
    return [(idea.text, idea.probability) for idea in parse_ideas(f"{before}<ideas>\n{block}\n</ideas>{after}")]


def test_ideas_are_read_and_their_probabilities_sum_to_one() -> None:
    block = '[{"idea": "share weights", "probability": 0.3}, {"idea": "gate", "probability": 0.1}]'
    assert ideas(block) == [("share weights", pytest.approx(0.75)), ("gate", pytest.approx(0.25))]
    assert ideas(f"```json\n{block}\n```") == ideas(block) == ideas(block, "", "")


def test_probabilities_of_ideas_are_clipped() -> None:
    values = [("a", 0.5), ("b", -3), ("c", math.nan), ("d", "0.5"), ("e", True), ("f", None)]
    found = ideas(json.dumps([{"idea": text, "probability": value} for text, value in values]))
    assert [share for _, share in found] == pytest.approx([0.5 / 0.55] + 5 * [0.01 / 0.55])


def test_percentages_are_taken_for_what_they_are() -> None:
    block = '[{"idea": "a", "probability": 60}, {"idea": "b", "probability": 20}]'
    assert [share for _, share in ideas(block)] == pytest.approx([0.75, 0.25])


def test_ideas_without_probabilities_are_equally_likely() -> None:
    assert ideas('["a", {"idea": "b"}]') == [("a", 0.5), ("b", 0.5)]


def test_repeated_and_surplus_ideas_are_dropped() -> None:
    assert ideas('[{"idea": "A  gate", "probability": 0.1}, {"idea": "a gate", "probability": 0.9}]') == [("A gate", 1)]
    assert len(ideas(json.dumps([str(number) for number in range(30)]))) == IDEAS


def test_one_idea_is_enough_and_none_is_not() -> None:
    assert ideas('["a", 3, {"other": "b"}, {"idea": ["c"]}, "\\u200b \\u0007"]') == [("a", 1)]
    with pytest.raises(BadReply, match="holds no idea"):
        ideas("[]")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no <ideas> block"),
        ('["a"]', "no <ideas> block"),
        ('<ideas>\n["a"]', "not closed by </ideas>"),
        ("<ideas>\na, b\n</ideas>", "there is no array in it"),
        ("<ideas>\n[a, b]\n</ideas>", "not a JSON array: Expecting value"),
        ("<ideas>" + "[" * 9000 + "]" * 9000 + "</ideas>", "not a JSON array"),
    ],
)
def test_unreadable_ideas_are_told_in_one_sentence(text: str, reason: str) -> None:
    with pytest.raises(BadReply, match=reason):
        parse_ideas(text)


# ---- forecasts


def forecasts(*entries: object) -> dict[int, tuple[float, str]]:
    found = parse_forecasts(json.dumps({"forecasts": entries}), [3, 7, 9])
    return {identity: (forecast.probability, forecast.why) for identity, forecast in found.items()}


def test_forecasts_are_read_for_what_was_asked() -> None:
    said = [{"id": 7, "probability": 0.2, "why": "flat"}, {"id": 3, "probability": 1}, {"id": 4, "probability": 0.5}]
    assert forecasts(*said) == {3: (0.99, ""), 7: (0.2, "flat")}
    assert list(forecasts(*said)) == [3, 7]
    assert forecasts() == {}


@pytest.mark.parametrize("probability", [math.nan, math.inf, -0.1, 1.1, 70, 10**400, "0.5", True, None, [0.5]])
def test_what_is_no_probability_is_left_out(probability: object) -> None:
    assert forecasts({"id": 3, "probability": probability}, {"id": 7, "probability": 0}) == {7: (0.01, "")}


@pytest.mark.parametrize("identity", [True, "3", 3.0, None, -3, 10**400])
def test_what_is_no_id_is_left_out(identity: object) -> None:
    assert forecasts({"id": identity, "probability": 0.5}) == {}


def test_contradictory_forecasts_are_left_out() -> None:
    assert forecasts({"id": 3, "probability": 0.1}, {"id": 3, "probability": 0.9}) == {}


@pytest.mark.parametrize(
    "text", ["", "no", "[1]", "{}", '{"forecasts": {}}', '{"forecasts": [', "{" * 9000 + "}" * 9000]
)
def test_unreadable_forecasts_are_an_error(text: str) -> None:
    with pytest.raises(BadReply):
        parse_forecasts(text, [3])


# ---- what people see


def test_texts_are_one_bounded_line_without_invisible_characters() -> None:
    hostile = "\x1b[2J\u202eidea\x00\u200b\n\r\t two\u2028three \x07" + "x" * 4000
    meta = json.dumps({"hypothesis": hostile, "refutes": hostile, "kind": hostile})
    proposal = parse_proposal(written(SOURCE, meta))
    (idea,) = parse_ideas(f"<ideas>{json.dumps([hostile])}</ideas>")
    forecast = parse_forecasts(json.dumps({"forecasts": [{"id": 1, "probability": 0.5, "why": hostile}]}), [1])[1]
    limits = {proposal.hypothesis: TEXT_LENGTH, proposal.kind: WORD_LENGTH, idea.text: TEXT_LENGTH}
    for text, limit in (limits | {proposal.refutes: TEXT_LENGTH, forecast.why: WORD_LENGTH}).items():
        assert text.startswith("[2Jidea two three xxx") and len(text) == limit
        assert text.isprintable()


def test_plain_text_keeps_what_people_write() -> None:
    assert plain("  σ² ≤ 0.5 —  naïve 😀 ", 100) == "σ² ≤ 0.5 — naïve 😀"
    assert plain("abcdef", 4) == "abc…"
