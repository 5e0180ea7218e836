// The overview: what the run found, what it tried, what it cost.

const BOARD_ROWS = 20;

const link = (id, text = String(id)) => el("a", { href: `#/c/${id}`, text });
const linked = (ids) => ids.flatMap((id, index) => [index ? " " : null, link(id)]);

/** What became of a candidate, in a few words. */
function outcome(S, candidate) {
  const { steps, decimals } = S.run;
  const rung = candidate.scores.findLastIndex((score) => score !== null);
  if (rung >= 0) return `${candidate.scores[rung].toFixed(decimals)} at ${whole(steps[rung])} steps`;
  if (candidate.status === "rejected") return `rejected: ${candidate.failure.reason}`;
  if (candidate.status === "failed") return `failed: ${candidate.trials.find((t) => t.failure).failure.reason}`;
  return candidate.status === "pending" ? "not admitted yet" : "no score yet";
}

function dots(S, rung) {
  const count = S.run.steps.length;
  return el("span", { class: "rungs", title: `${whole(S.run.steps[rung])} steps` },
    el("span", { "aria-hidden": "true", text: "●".repeat(rung + 1) + "○".repeat(count - rung - 1) }),
    el("span", { class: "unseen", text: `${whole(S.run.steps[rung])} steps` }));
}

/** The value of a row in a column, as a person reads it. */
function shown(S, column, row) {
  const value = row[column.key];
  if (value === null || value === undefined || value === "") return column.kind === "candidates" || column.key === "error" ? "" : NONE;
  switch (column.kind) {
    case "candidate": return link(value);
    case "candidates": return el("span", {}, linked(value));
    case "rung": return dots(S, value);
    case "count": return el("span", { title: whole(value), text: short(value) });
    case "number": return value.toFixed(column.digits);
    case "time": return value >= 1000 ? whole(Math.round(value)) : value.toFixed(column.digits);
    case "signed": return signed(value, column.digits);
    case "real": return real(value);
    case "range": return value[0] === value[1] ? String(value[0]) : `${value[0]}–${value[1]}`;
    case "estimate": return estimated(value, (part) => part.toFixed(column.digits), column.digits);
    case "change": return estimated(value, (part) => signed(part, column.digits), column.digits);
    default: return column.key === "arm" ? armName(value) : column.key === "name" ? el("span", { title: value, text: cutMiddle(value, 84) }) : String(value);
  }
}

const estimated = ([value, error], say, digits) => say(value) + (error === null ? "" : ` ± ${error.toFixed(digits)}`);

const worded = new Set(["text", "candidates", "rung"]);

/** The rows in the order that the reader wants; rows without a value come last either way. */
function sorted(S, view) {
  const words = view.find.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (row) => `${row.candidate} ${row.name} ${row.arm}`.toLowerCase();
  const rows = S.rows.filter((row) => words.every((word) => text(row).includes(word)));
  const value = (row) => (Array.isArray(row[view.key]) ? row[view.key][0] : row[view.key]);
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    const missing = (z) => z === null || z === undefined;
    if (missing(x) || missing(y)) return missing(x) - missing(y);
    return (typeof x === "string" ? x.localeCompare(y) : x - y) * (view.down ? -1 : 1);
  };
  return rows.sort((a, b) => compare(a, b) || a.rank - b.rank);
}

function leaderboard(S, view) {
  if (!S.rows.length) return card("Leaderboard", null, emptiness("No candidate has a score yet."));
  const body = el("tbody");
  const heads = el("tr");
  const more = el("p", { class: "more" });
  const compare = el("p", { class: "more", "aria-live": "polite" });
  const better = (column) => (["score", "test", "fresh"].includes(column.key) ? S.run.maximize : column.key === "delta");
  const head = (column) => {
    const active = view.key === column.key;
    const button = el("button", {
      type: "button", title: column.title, "data-key": `sort ${column.key}`,
      onclick: () => {
        view.down = active ? !view.down : better(column);
        view.key = column.key;
        fill();
        heads.querySelector(`[data-key="sort ${column.key}"]`).focus();
      },
    }, column.heading, el("span", { class: "order", "aria-hidden": "true", text: active ? (view.down ? " ▼" : " ▲") : "" }));
    return el("th", { scope: "col", class: `${worded.has(column.kind) ? "" : "number "}c-${column.key}`, "aria-sort": active ? (view.down ? "descending" : "ascending") : "none" }, button);
  };
  const pick = (row) => el("input", {
    type: "checkbox", "aria-label": `compare candidate ${row.candidate}`, checked: view.picked.includes(row.candidate),
    onchange: (event) => {
      view.picked = view.picked.filter((id) => id !== row.candidate);
      if (event.target.checked) view.picked = [...view.picked.slice(-1), row.candidate];
      for (const box of body.querySelectorAll("input")) box.checked = view.picked.includes(Number(box.dataset.id));
      offer();
    },
    "data-id": row.candidate,
  });
  const offer = () => {
    const [a, b] = view.picked;
    compare.replaceChildren(
      b !== undefined ? el("a", { class: "button", href: `#/compare/${a}/${b}`, text: `Compare ${a} and ${b}` })
        : a !== undefined ? `${a} picked; pick another candidate to compare it with.` : "Pick two candidates to compare them side by side.");
  };
  const fill = () => {
    const rows = sorted(S, view);
    const cut = view.all ? rows : rows.slice(0, BOARD_ROWS);
    heads.replaceChildren(el("th", { scope: "col", class: "c-pick" }, el("span", { class: "unseen", text: "compare" })), ...S.columns.map(head));
    body.replaceChildren(...cut.map((row) => el("tr", { class: row.arm === "baseline" ? "baseline" : null },
      el("td", { class: "c-pick" }, pick(row)),
      S.columns.map((column) => el("td", { class: `${worded.has(column.kind) ? "" : "number "}c-${column.key}` }, shown(S, column, row))))));
    more.replaceChildren(rows.length > BOARD_ROWS
      ? el("button", { type: "button", class: "button", "data-key": "all rows", onclick: () => { view.all = !view.all; fill(); more.querySelector("button").focus(); }, text: view.all ? `Show the first ${BOARD_ROWS}` : `Show all ${whole(rows.length)}` })
      : rows.length ? "" : "No row has all of these words.");
  };
  const find = el("input", { type: "search", id: "find", placeholder: "id, words, arm", autocomplete: "off", oninput: (event) => { view.find = event.target.value; fill(); } });
  find.value = view.find;
  fill();
  offer();
  return wide(card("Leaderboard", `One row for each candidate, by its best trial; baselines by the mean over their seeds. ${sentence(S.state.label)}.`,
    el("div", { class: "tools" }, el("label", { for: "find" }, "Find "), find, compare),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Leaderboard" }, el("table", { class: "board" }, el("caption", { class: "unseen", text: "Leaderboard" }), el("thead", {}, heads), body)),
    more));
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function select(label, options, value, choose) {
  const box = el("select", { "data-key": label, onchange: (event) => choose(event.target.value) }, options.map(([key, text]) => el("option", { value: key, selected: String(key) === String(value), text })));
  return el("label", {}, `${label} `, box);
}

function frontCard(S, view) {
  const reached = S.run.steps.map((_, rung) => rung).filter((rung) => S.candidates.some((c) => (c.scores[rung] ?? null) !== null));
  if (!reached.length) return card("Quality against size", null, emptiness("No result yet."));
  const host = el("div");
  const draw = () => {
    const rung = reached.includes(view.rung) ? view.rung : reached.at(-1);
    const known = Object.keys(MEASURES).filter((one) => S.fronts[rung][one].length);
    const measure = known.includes(view.measure) ? view.measure : known[0];
    host.replaceChildren(
      el("div", { class: "tools" },
        select("at", reached.map((one) => [one, `${whole(S.run.steps[one])} steps`]), rung, (key) => { view.rung = Number(key); draw(); }),
        select("against", known.map((one) => [one, MEASURES[one].word]), measure, (key) => { view.measure = key; draw(); })),
      frontChart(S, rung, measure));
  };
  draw();
  return card("Quality against size", "The line is the front: no candidate is both better and smaller. Baselines are on it too.", host);
}

function areaCard(S) {
  const rung = Math.max(-1, ...S.areas.filter((one) => one.results).map((one) => one.rung));
  if (rung < 0) return card("What the front dominates", null, emptiness("No result of the search yet."));
  const found = S.areas.filter((one) => one.rung === rung);
  const score = found[0].reference[1].toFixed(S.run.decimals);
  const note = `The area between the front and its reference, in ${S.run.metric} × doublings of size: from ${score}, the worst baseline’s score, and twice the largest size. Dashed: the baselines alone.`;
  return card("What the front dominates", note, found.map((one) => areaChart(S, one)));
}

function proxyCard(S) {
  const title = "How far to trust a rung";
  if (S.run.steps.length < 2) return card(title, null, emptiness("There is one rung only."));
  if (!S.proxies.length) return card(title, null, emptiness("No two trials of the search have scores at two rungs."));
  const ranged = (d) => (d === null ? NONE : `${signed(d.value, 2)} [${signed(d.low, 2)}, ${signed(d.high, 2)}]`);
  const columns = [
    { heading: "from, to", cell: (d) => `${whole(S.run.steps[d.lower])} → ${whole(S.run.steps[d.upper])}` },
    { heading: "trials (candidates)", right: true, cell: (d) => `${whole(d.trials)} (${whole(d.candidates)})` },
    { heading: "τ of survivors [95 %]", right: true, cell: (d) => ranged(d.tau) },
    { heading: "τ of all, estimated", right: true, cell: (d) => ranged(d.of_all) },
    { heading: "lost (by lot)", right: true, cell: (d) => (d.top ? `${d.lost} of ${d.top} (${d.by_chance.toFixed(1)})` : NONE) },
    { heading: "share lost, estimated", right: true, cell: (d) => (d.loss ? `${percent(d.loss.value)} [${percent(d.loss.low)}, ${percent(d.loss.high)}]` : NONE) },
  ];
  const said = S.proxies.filter((d) => d.sentence).map((d) => el("p", { class: d.verdict === "weak" ? "notice" : null, text: `${sentence(d.sentence)}.` }));
  const note = `Kendall’s τ between two rungs, of the search’s trials that have a score at both. They were selected on the lower rung, which weakens τ; the estimate for all takes scores to be as normal where nobody was sent on. Lost: of the best 1/${S.run.eta} at the higher rung, those outside the best 1/${S.run.eta} of the same trials at the lower.`;
  return wide(card(title, note, said, proxyChart(S), table(title, columns, S.proxies)));
}

function curvesCard(S) {
  const named = new Map();
  const baseline = S.rows.find((row) => row.arm === "baseline");
  if (S.best) named.set(S.best.trial, { color: "var(--accent)", width: 2.8, opacity: 1, label: `${S.best.candidate}` });
  const faint = Math.max(0.12, Math.min(0.4, 5 / Math.sqrt(S.totals.trials)));
  const series = S.candidates.filter((c) => c.arm !== "baseline").flatMap((c) => c.trials.filter((t) => t.points.length).map((t) => ({
    name: `candidate ${c.id}, trial ${t.id}`, candidate: c.id, points: t.points.map((p) => [p[1], p[4]]),
    ...(named.get(t.id) ?? { color: "var(--accent)", width: 1.2, opacity: t.points.length > 1 ? faint : 0.7 * faint }),
  })));
  series.sort((a, b) => a.width - b.width);
  if (baseline) {
    const about = S.byId.get(baseline.candidate);
    series.push({ name: `baseline ${about.name}`, candidate: about.id, label: about.name, points: meanCurve(S, about), color: "var(--arm-0)", width: 2.2, opacity: 1, dash: "5 4" });
  }
  return card("Learning curves by rung", "Every trial at the rungs that it reached; bold the best candidate’s, dashed the best baseline’s mean.", curveChart(S, `Learning curves of ${series.length} trials`, series));
}

/** A candidate's score at each rung that it reached. */
const meanCurve = (S, candidate) => candidate.scores.map((score, rung) => [S.run.steps[rung], score]).filter(([, score]) => score !== null);

function lineageCard(S, view) {
  const host = el("div");
  const draw = () => {
    const made = lineageChart(S, { all: view.tree });
    const family = relatives(S, null, Infinity).size;
    const button = family > LINEAGE_NODES && el("button", { type: "button", class: "button", "data-key": "tree", text: view.tree ? "Show the best only" : `Show all ${whole(family)}`, onclick: () => { view.tree = !view.tree; draw(); host.querySelector("[data-key=tree]").focus(); } });
    host.replaceChildren(...[made, button && el("p", { class: "more" }, button)].filter(Boolean));
  };
  draw();
  return wide(card("Lineage", "From left to right. The bold path leads to the best candidate; hollow marks have no score. Candidates without parents and children are left out.", host));
}

function ladderCard(S) {
  const { totals } = S;
  const rows = [
    { label: "proposed", value: totals.proposed, text: whole(totals.proposed), hint: "candidates" },
    { label: "admitted and trained", value: totals.spent, text: whole(totals.spent), hint: `candidates, of a budget of ${whole(S.run.budget)}` },
    ...S.ladder.map((level) => ({
      label: `${whole(level.steps)} steps`, value: level.scored, text: whole(level.scored), tone: "trials",
      hint: ["trials", level.promoted ? `${whole(level.promoted)} promoted` : null, level.failed ? `${whole(level.failed)} failed` : null, level.running ? `${whole(level.running)} running` : null].filter(Boolean).join(", "),
    })),
  ];
  const why = Object.entries(S.promoted_by).map(([reason, count]) => `${whole(count)} by ${{ rank: "rank", model: "the model’s forecast", random: "the coin", pin: "a person’s pin" }[reason] ?? reason}`).join(", ");
  return card("From proposal to the top rung", why ? `Promotions: ${why}.` : "No trial has been promoted yet.", bars("From proposal to the top rung", ["stage", "count"], rows));
}

function rejectionsCard(S) {
  const listed = (found) => found.map((one) => ({ label: one.reason, value: one.count, text: whole(one.count), hint: cut(one.example, 110) }));
  const rejected = S.rejected.length ? bars("Rejected candidates by reason", ["reason", "candidates"], listed(S.rejected), "bad") : emptiness("No candidate was rejected.");
  const failed = S.failed.length ? [el("h3", { text: "Trials that failed" }), bars("Failed trials by reason", ["reason", "trials"], listed(S.failed), "bad")] : null;
  const who = (found) => () => found.flatMap((one) => one.candidates.map((id) => ({ id, reason: one.reason })));
  const columns = [{ heading: "candidate", cell: (d) => link(d.id) }, { heading: "reason", cell: (d) => d.reason }];
  const all = S.rejected.length + S.failed.length ? behind("Rejections and failures", { columns, rows: who([...S.rejected, ...S.failed]) }) : null;
  return card("Rejections by reason", "What was turned away before training, with the words of the first. It costs nothing of the budget.", rejected, failed, all);
}

function armsCard(S) {
  const lift = (arm) => (arm.lift ? `${signed(arm.lift.lift, 2)} [${signed(arm.lift.low, 2)}, ${signed(arm.lift.high, 2)}]${arm.lift.shown ? "" : " not shown"}` : NONE);
  const columns = [
    { heading: "arm", cell: (arm) => armName(arm.name) },
    { heading: "proposed", right: true, cell: (arm) => whole(arm.proposed) },
    { heading: "rejected", right: true, cell: (arm) => (arm.proposed ? `${whole(arm.rejected)} (${percent(arm.rejected / arm.proposed)})` : NONE) },
    { heading: "draws", right: true, cell: (arm) => whole(arm.draws) },
    { heading: "lift over random [95 %]", right: true, cell: lift },
  ];
  if (!S.arms.length) return card("Arms and their lift", null, emptiness("Nobody has proposed anything yet."));
  return card("Arms and their lift", "Normal scores of the first rung’s ranks at equal learning rate; an interval that holds 0 shows nothing.", liftChart(S.arms) ?? emptiness("Too few candidates to say what an arm is worth."), table("Arms", columns, S.arms));
}

function forecastCard(S) {
  if (!S.forecasts) return card("Forecaster calibration", null, emptiness("No model forecast any trial in this run; promotions went by rank."));
  const found = S.forecasts.calibration;
  if (!found.length) return card("Forecaster calibration", null, emptiness(`${plural(S.forecasts.asked, "forecast")}, none of them resolved yet.`));
  const columns = [
    { heading: "from rung", cell: (d) => (d.rung === null ? "all" : `${whole(S.run.steps[d.rung])} steps`) },
    { heading: "resolved", right: true, cell: (d) => whole(d.resolved) },
    { heading: "base rate", right: true, cell: (d) => percent(d.base_rate) },
    { heading: "Brier (base)", right: true, cell: (d) => `${d.brier.toFixed(3)} (${d.brier_base.toFixed(3)})` },
    { heading: "log loss (base)", right: true, cell: (d) => `${d.log_loss.toFixed(3)} (${d.log_loss_base.toFixed(3)})` },
  ];
  return card("Forecaster calibration", "Did the model’s probability, that a trial ends above the median of those promoted, hold? Below the base rate’s figure is good. Numbers are trials.", calibrationChart(found[0]), table("Calibration by rung", columns, found));
}

function costCard(S) {
  const { cost } = S;
  if (!cost) return card("What the model cost", null, emptiness("No model was asked in this run: it cost nothing but processor time."));
  const unknown = Object.keys(cost.usd).length ? null : el("p", { class: "note", text: "The model’s prices are not known, so there are no dollars." });
  const share = cost.prompt_tokens ? percent(cost.cached_tokens / cost.prompt_tokens) : NONE;
  const rows = [
    ...Object.entries(cost.usd).map(([role, usd]) => [`dollars, ${role}`, dollars(usd)]),
    ["dollars in all", Object.keys(cost.usd).length ? dollars(cost.total_usd) : "not known"],
    Number(cost.open_usd) ? ["of it for calls without an end, at most", dollars(cost.open_usd)] : null,
    ["limit", cost.limit_usd === null ? "none" : dollars(cost.limit_usd)],
    ...Object.entries(cost.calls).map(([result, count]) => [`calls, ${result}`, whole(count)]),
    ["tokens in", `${whole(cost.prompt_tokens)} (${share} from the cache)`],
    ["tokens out", whole(cost.output_tokens)],
    ["drafts sent back", whole(cost.drafts)],
    ["candidates", whole(cost.candidates)],
    ["better than their parent by over σ", whole(cost.improvements)],
    ["forecasts", `${whole(cost.forecasts)}, ${plural(cost.by_model, "promotion")} changed`],
    cost.weights.length ? ["weight of the forecast, beside the rank’s", `${cost.weights.at(-1)[1].toFixed(2)}, beside ${cost.weights.at(-1)[0].toFixed(2)}`] : null,
  ].filter(Boolean);
  return card("What the model cost", "As the server counted its tokens.", unknown, costChart(cost), facts(rows));
}

const STAGES = { trace: "trace", check: "check", leaks: "leak check", start: "start of a trainer", compile: "compile", train: "train", evaluate: "evaluate", checkpoint: "checkpoint", other: "other" };

function stagesCard(S) {
  const known = Object.keys(STAGES);
  const rank = (stage) => (known.includes(stage) ? known.indexOf(stage) : known.length);
  const entries = Object.entries(S.stages).sort(([a], [b]) => rank(a) - rank(b));
  if (!entries.length) return card("Time by stage", null, emptiness("No task has ended yet."));
  const total = entries.reduce((sum, [, seconds]) => sum + seconds, 0);
  const rows = entries.map(([stage, seconds]) => ({ label: STAGES[stage] ?? stage, value: seconds, text: duration(seconds), hint: percent(seconds / total) }));
  return card("Time by stage", `${duration(S.totals.cpu_s)} of processor time in all.`, bars("Time by stage", ["stage", "time"], rows));
}

function messagesCard(S) {
  if (!S.messages.length) return null;
  const columns = [{ heading: "when", cell: (d) => d.time }, { heading: "who", cell: (d) => d.author }, { heading: "what", cell: (d) => d.kind }, { heading: "text", cell: (d) => d.text }];
  return wide(card("What people told the search", null, table("Messages", columns, S.messages.slice(-50))));
}

function summaryTiles(S) {
  const { run, best, totals } = S;
  const top = [...S.references].reverse().find(Boolean);
  const at = (rung) => `at ${whole(run.steps[rung])} steps`;
  const again = S.confirmed;
  const onTest = (one) => `${one.test[1] === null ? "" : `± ${one.test[1].toFixed(run.decimals)} `}on the test split, ${plural(one.fresh_seeds, "fresh seed")}`;
  const claimed = (one) => (one.claim === "yes" ? "confirmed, beats every baseline" : "not shown to beat every baseline");
  const figures = again?.best ? [
    [link(again.best.candidate, again.best.test[0].toFixed(run.decimals)), `${run.metric} ${onTest(again.best)}: ${claimed(again.best)}`],
    again.baseline ? [again.baseline.test[0].toFixed(run.decimals), `best baseline, ${again.baseline.name}, ${onTest(again.baseline)}`] : [NONE, "best baseline"],
  ] : [
    best ? [link(best.candidate, best.score.toFixed(run.decimals)), `best ${run.metric}, ${at(best.rung)}: ${S.state.label}`] : [NONE, `best ${run.metric}`],
    top ? [`${top.score.toFixed(run.decimals)}`, `best baseline, ${top.name}, ${at(S.references.lastIndexOf(top))}, ± ${top.error.toFixed(run.decimals)}`] : [NONE, "best baseline"],
  ];
  figures.push(
    [`${whole(totals.spent)} of ${whole(run.budget)}`, `candidates trained, in ${plural(totals.trials, "trial")}`],
    [totals.proposed ? percent(totals.rejected / totals.proposed) : NONE, `of ${plural(totals.proposed, "proposal")} rejected`],
    [duration(totals.cpu_s), "of processor time"],
    [S.cost ? (Object.keys(S.cost.usd).length ? dollars(S.cost.total_usd) : "not known") : "$0", S.cost ? "for the model" : "no model was asked"],
  );
  return tiles(figures);
}

function boardView(S, view) {
  return [
    el("h1", { class: "unseen", text: "What the run found" }),
    ...S.state.notices.map((text) => el("p", { class: "notice", role: "note", text })),
    S.state.unreadable ? null : [
      el("p", { class: "lead", text: `${sentence(S.state.summary)}.` }),
      summaryTiles(S),
      el("div", { class: "grid" },
        card(`Best so far against the baseline`, "Each dot is a result; the bold line is the record at the highest rung, fainter ones are lower rungs.", bestSoFar(S)),
        frontCard(S, view), leaderboard(S, view.board), lineageCard(S, view), curvesCard(S), stagesCard(S), armsCard(S), ladderCard(S), proxyCard(S), areaCard(S),
        forecastCard(S), costCard(S), rejectionsCard(S), aboutCard(S), messagesCard(S)),
    ],
  ];
}

function aboutCard(S) {
  const { run } = S;
  const rows = [
    ["space", run.space], ["score", `${run.metric} on validation, ${run.maximize ? "higher" : "lower"} is better`],
    ["rungs", `${run.steps.map(whole).join(", ")} steps; one in ${run.eta} is promoted`], ["draws of a candidate", run.draws], ["seed", run.seed],
    ["noise of a seed", S.references.map((r, rung) => (r ? `σ ${r.sigma.toFixed(run.decimals + 1)} at ${whole(run.steps[rung])} steps (${r.degrees} d.f.)` : null)).filter(Boolean).join(", ") || NONE],
    ["model", run.model ?? "none"], ["machine", `${run.machine || NONE}${run.workers ? `, ${plural(run.workers, "worker")}` : ""}`],
    ["versions", Object.entries(run.versions).map(([name, version]) => `${name} ${version}`).join(", ") || NONE],
  ];
  return card("The run", null, facts(rows.map(([name, value]) => [name, String(value ?? NONE)])));
}
