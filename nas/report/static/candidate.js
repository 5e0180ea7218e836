// One candidate's page, and two candidates side by side.

const CONTEXT = 3;

/** Differences of two texts by line: [{mark: " " | "+" | "-", text, before, after}], by the longest common subsequence. */
function difference(before, after) {
  const [a, b] = [before.split("\n"), after.split("\n")];
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const [n, m] = [a.length - start - end, b.length - start - end];
  const longest = Array.from({ length: n + 1 }, () => new Uint32Array(m + 1));
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      longest[i][j] = a[start + i] === b[start + j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
  const lines = [];
  const same = (i, j) => lines.push({ mark: " ", text: a[i], before: i + 1, after: j + 1 });
  for (let i = 0; i < start; i++) same(i, i);
  let [i, j] = [0, 0];
  while (i < n || j < m) {
    if (i < n && j < m && a[start + i] === b[start + j]) same(start + i++, start + j++);
    else if (i < n && (j === m || longest[i + 1][j] >= longest[i][j + 1])) lines.push({ mark: "-", text: a[start + i], before: start + ++i });
    else lines.push({ mark: "+", text: b[start + j], after: start + ++j });
  }
  for (let k = 0; k < end; k++) same(a.length - end + k, b.length - end + k);
  return lines;
}

function code(name, lines) {
  return el("div", { class: "code scroll", tabindex: "0", role: "region", "aria-label": name }, el("pre", {}, lines));
}

function codeLine(kind, numbers, mark, text) {
  return el("span", { class: `line ${kind}` }, el("span", { class: "gutter", "aria-hidden": "true" }, numbers.map((n) => el("i", { text: n ?? "" }))), el("span", { class: "sign", text: mark }), el("span", { text: `${text}\n` }));
}

const KINDS = { "+": "added", "-": "removed", " ": "same" };

function differenceView(name, before, after) {
  const lines = difference(before, after);
  if (lines.every((line) => line.mark === " ")) return emptiness("The sources are equal.");
  const near = lines.map((_, index) => lines.slice(Math.max(0, index - CONTEXT), index + CONTEXT + 1).some((line) => line.mark !== " "));
  const drawn = [];
  let hidden = 0;
  lines.forEach((line, index) => {
    if (!near[index]) hidden++;
    if (hidden && (near[index] || index === lines.length - 1)) drawn.push(el("span", { class: "line fold", text: `${plural(hidden, "equal line")}\n` }));
    if (!near[index]) return;
    hidden = 0;
    drawn.push(codeLine(KINDS[line.mark], [line.before, line.after], line.mark === "-" ? "−" : line.mark, line.text));
  });
  const count = (mark) => lines.filter((line) => line.mark === mark).length;
  return el("div", {}, el("p", { class: "note", text: `${plural(count("+"), "line")} added, ${whole(count("-"))} removed.` }), code(name, drawn));
}

const missing = (id) => emptiness(`The page has no room for this source; it is in the run’s folder, candidates/${String(id).padStart(4, "0")}.py.`);

function sourceView(S, candidate) {
  const text = S.sources[candidate.id];
  if (text === undefined) return missing(candidate.id);
  const failed = candidate.failure?.line;
  return code(`Source of candidate ${candidate.id}`, text.split("\n").map((line, index) => codeLine(index + 1 === failed ? "removed" : "same", [index + 1], index + 1 === failed ? "▸" : " ", line)));
}

function sourcesDiffer(S, from, to) {
  const [before, after] = [S.sources[from], S.sources[to]];
  if (before === undefined) return missing(from);
  return after === undefined ? missing(to) : differenceView(`Difference of candidate ${to} to ${from}`, before, after);
}

/** Both sources beside each other, equal lines on one height; a narrow screen gets the lines below each other instead. */
function sideBySide(S, from, to) {
  const [before, after] = [S.sources[from], S.sources[to]];
  if (before === undefined) return missing(from);
  if (after === undefined) return missing(to);
  const rows = [];
  let [removed, added] = [[], []];
  const flush = () => {
    for (let k = 0; k < Math.max(removed.length, added.length); k++) rows.push([removed[k], added[k]]);
    [removed, added] = [[], []];
  };
  for (const line of difference(before, after)) {
    if (line.mark === "-") removed.push(line);
    else if (line.mark === "+") added.push(line);
    else {
      flush();
      rows.push([line, line]);
    }
  }
  flush();
  const half = (line, number) => el("td", { class: `half ${line ? KINDS[line.mark] : "none"}` },
    line ? [el("span", { class: "gutter", "aria-hidden": "true" }, el("i", { text: number(line) })), el("span", { class: "sign", text: line.mark === "-" ? "−" : line.mark }), el("span", { class: "text", text: line.text })] : "");
  const heads = [from, to].map((id) => el("th", { scope: "col", text: `candidate ${id}` }));
  const split = el("table", { class: "code split" }, el("caption", { class: "unseen", text: `Sources of ${from} and ${to}` }), el("thead", {}, el("tr", {}, heads)),
    el("tbody", {}, rows.map(([left, right]) => el("tr", {}, half(left, (d) => d.before), half(right, (d) => d.after)))));
  return [el("div", { class: "on-wide" }, split), el("div", { class: "on-narrow" }, differenceView(`Difference of candidate ${to} to ${from}`, before, after))];
}

/** A candidate's trials as series of scores, bold where `bold`. */
function seriesOf(S, candidate, color, bold) {
  const best = S.at.get(candidate.id)?.trial;
  const label = candidate.arm === "baseline" ? candidate.name : String(candidate.id);
  if (candidate.arm === "baseline")
    return [{ name: `baseline ${candidate.name}`, candidate: candidate.id, label, points: meanCurve(S, candidate), color, width: bold ? 2.8 : 2, opacity: 1, dash: bold ? null : "5 4" }];
  return candidate.trials.filter((t) => t.points.length).map((t) => ({
    name: `candidate ${candidate.id}, trial ${t.id}`, candidate: candidate.id, label: t.id === best ? label : null,
    points: t.points.map((p) => [p[1], p[4]]), color, width: t.id === best && bold ? 2.8 : 1.6, opacity: t.id === best ? 1 : 0.4,
  })).sort((a, b) => a.opacity - b.opacity);
}

function candidateTiles(S, candidate) {
  const at = S.at.get(candidate.id);
  const { cost } = candidate;
  const { run } = S;
  const number = (value, label, words = short) => [value === undefined || value === null ? NONE : el("span", { title: whole(value), text: words(value) }), label];
  return tiles([
    [at ? at.score.toFixed(run.decimals) : NONE, at ? `${run.metric} at ${whole(run.steps[at.rung])} steps: ${S.state.label}${at.seeds > 1 ? `, mean of ${at.seeds} seeds` : ""}` : outcome(S, candidate)],
    [at && at.delta !== null ? signed(at.delta, 1) : NONE, "σ of a seed ahead of the best baseline there"],
    number(cost.params, "parameters"),
    number(cost.flops, "FLOPs of an inference"),
    number(cost.memory_bytes, "bytes in training"),
    ...(candidate.step_us ? [number(candidate.step_us, "µs of a training step", real)] : []),
    [at ? `${at.rank} of ${S.rows.length}` : NONE, "place on the leaderboard"],
  ]);
}

function checksCard(S, candidate) {
  const { cost, failure } = candidate;
  const told = [];
  if (failure) told.push(el("p", { class: "notice bad" }, el("strong", { text: `Rejected: ${failure.reason}` }), failure.line ? ` in line ${failure.line}` : "", `. ${failure.message}`));
  else if (candidate.fingerprint) told.push(el("p", { class: "passed", text: "Admitted: the source passed the gate, was traced, and its program was checked." }));
  else told.push(el("p", { class: "note", text: "Not admitted yet." }));
  const profile = Object.entries(candidate.profile).sort(([, a], [, b]) => b - a).map(([kind, share]) => `${kind} ${percent(share)}`).join(", ");
  const rows = [
    ["parameters", cost.params && whole(cost.params)], ["FLOPs of an inference, an example", cost.flops && whole(cost.flops)],
    ["FLOPs of a training step, an example", cost.train_flops && whole(cost.train_flops)], ["memory in training", cost.memory_bytes && `${whole(cost.memory_bytes)} bytes`],
    ["operations", cost.ops && whole(cost.ops)], ["FLOPs by kind", profile], ["what decides how it is run", candidate.traits.join(", ")], ["program", candidate.fingerprint],
  ].filter((row) => row[1]);
  if (rows.length) told.push(facts(rows));
  if (candidate.drafts.length) told.push(el("h3", { text: "Drafts that were sent back" }), el("ol", {}, candidate.drafts.map((text) => el("li", { text }))));
  return card("Checks", null, told);
}

function ideaCard(candidate) {
  const about = [
    ["written by", armName(candidate.arm)], ["how", candidate.operator], ["made from", candidate.parents.length ? el("span", {}, linked(candidate.parents)) : "nothing: a start of its own"],
    ...Object.entries(candidate.claims).map(([name, text]) => [name.replaceAll("_", " "), text]), ...Object.entries(candidate.tunables).map(([name, text]) => [`tunable ${name}`, text]),
    candidate.calls ? ["calls of the model", `${candidate.calls}, ${candidate.usd === null ? "at a price that is not known" : `for ${dollars(candidate.usd)}`}`] : null,
  ].filter((row) => row && row[1]);
  return card("Idea", null, el("p", { class: "idea", text: candidate.idea || "No idea was given." }), facts(about));
}

function trialsCard(S, candidate) {
  const { steps, decimals } = S.run;
  if (!candidate.trials.length) return wide(card("Trials", null, emptiness("It was never trained.")));
  const numbers = (trial) => Object.entries({ ...trial.recipe, ...trial.values }).map(([key, value]) => `${key} ${real(value)}`).join(", ");
  const sent = (trial) => trial.promoted.map((one) => `to ${whole(steps[one.rung])} by ${one.why}`).join(", ");
  const told = (trial) => trial.forecasts.map((one) => `${percent(one.probability)} at ${whole(steps[one.rung])}: ${one.why}`).join("; ");
  const columns = [
    { heading: "trial", right: true, cell: (d) => d.id }, { heading: "arm", cell: (d) => armName(d.arm) },
    ...steps.map((step, rung) => ({ heading: `${whole(step)} steps`, right: true, cell: (d) => d.points.find((p) => p[0] === rung)?.[4]?.toFixed(decimals) })),
    { heading: "numbers", cell: numbers }, { heading: "seed", right: true, cell: (d) => d.seed },
    { heading: "promoted", cell: sent },
    ...(candidate.trials.some((t) => t.forecasts.length) ? [{ heading: "forecast", cell: told }] : []),
    ...(candidate.trials.some((t) => t.failure) ? [{ heading: "failure", cell: (d) => (d.failure ? `${d.failure.reason}: ${d.failure.message}` : "") }] : []),
  ];
  return wide(card("Trials", null, table("Trials", columns, candidate.trials)));
}

/** Scores of each task, a row for each trial and rung; nothing where the space has one task. */
function tasksCard(S, candidate) {
  const { steps, decimals, tasks } = S.run;
  const rows = candidate.trials.flatMap((trial) => trial.tasks.map(([rung, scores]) => ({ id: trial.id, rung, scores })));
  if (!rows.length) return null;
  const left = rows.some((d) => tasks.some((name) => !(name in d.scores)));
  const note = `Each task is learnt with parameters of its own; the score is their mean.${left ? " A trial that was behind on every task was left before the last, and its score is what the others let expect." : ""}`;
  const columns = [
    { heading: "trial", right: true, cell: (d) => d.id }, { heading: "steps", right: true, cell: (d) => whole(steps[d.rung]) },
    ...tasks.map((name) => ({ heading: name.replaceAll("_", " "), right: true, cell: (d) => d.scores[name]?.toFixed(decimals) })),
  ];
  return wide(card("Score of each task", note, table("Score of each task", columns, rows)));
}

function childrenCard(S, candidate) {
  const children = (S.children.get(candidate.id) ?? []).map((id) => S.byId.get(id));
  if (!children.length) return card("What became of its children", null, emptiness("Nothing was made from it."));
  const against = (child) => {
    const rung = child.scores.findLastIndex((score, at) => score !== null && (candidate.scores[at] ?? null) !== null);
    if (rung < 0) return null;
    const gain = (child.scores[rung] - candidate.scores[rung]) * (S.run.maximize ? 1 : -1);
    const sigma = S.references[rung]?.sigma;
    return `${signed(gain, S.run.decimals)}${sigma ? ` (${signed(gain / sigma, 1)} σ)` : ""} at ${whole(S.run.steps[rung])}`;
  };
  const columns = [
    { heading: "child", cell: (d) => link(d.id) }, { heading: "arm", cell: (d) => armName(d.arm) }, { heading: "how", cell: (d) => cut(d.operator, 48) },
    { heading: "outcome", cell: (d) => outcome(S, d) }, { heading: "better than this one by", right: true, cell: against },
  ];
  const better = children.filter((d) => against(d)?.startsWith("+") && !/^\+0\.0*( |$)/.test(against(d))).length;
  const rejected = children.filter((d) => d.status === "rejected").length;
  return card("What became of its children", `${plural(children.length, "child", "children")}: ${whole(rejected)} rejected, ${whole(better)} with a better score at the same rung, seeds not counted.`, table("Children", columns, children));
}

function options(S, without) {
  const ranked = S.rows.map((row) => row.candidate);
  const rest = S.candidates.map((c) => c.id).filter((id) => !S.at.has(id));
  return [...ranked, ...rest].filter((id) => id !== without).map((id) => {
    const candidate = S.byId.get(id);
    return [id, `${id} · ${outcome(S, candidate)} · ${cutMiddle(candidate.name, 42)}`];
  });
}

function candidateView(S, id) {
  const candidate = S.byId.get(id);
  const near = (step) => S.rows[S.rows.findIndex((row) => row.candidate === id) + step]?.candidate;
  const ranked = S.at.has(id);
  const compare = el("div", { class: "tools" },
    ranked && near(-1) !== undefined ? el("a", { class: "button", href: `#/c/${near(-1)}`, text: "← better" }) : null,
    ranked && near(1) !== undefined ? el("a", { class: "button", href: `#/c/${near(1)}`, text: "worse →" }) : null,
    S.candidates.length > 1 ? select("Compare with", [["", "choose a candidate"], ...options(S, id)], "", (key) => { if (key) location.hash = `#/compare/${id}/${key}`; }) : null);
  const parents = candidate.parents.filter((parent) => S.byId.has(parent));
  const curves = [
    ...parents.flatMap((parent) => seriesOf(S, S.byId.get(parent), "var(--second)", false)),
    ...seriesOf(S, candidate, "var(--accent)", true),
  ];
  const baseline = S.rows.find((row) => row.arm === "baseline");
  if (baseline && baseline.candidate !== id && !parents.includes(baseline.candidate)) curves.unshift(...seriesOf(S, S.byId.get(baseline.candidate), "var(--arm-0)", false));
  const trained = candidate.trials.some((trial) => trial.points.length);
  const tree = lineageChart(S, { focus: id });
  return [
    el("p", { class: "back" }, el("a", { href: "#/", text: "← All candidates" })),
    el("h1", {}, `Candidate ${id}`, el("span", { class: "subtitle", text: cutMiddle(candidate.name, 140) })),
    compare,
    candidateTiles(S, candidate),
    el("div", { class: "grid" },
      ideaCard(candidate), checksCard(S, candidate),
      card("Learning curves", `Bold its best trial${parents.length ? ", orange its parents’" : ""}, dashed a baseline’s mean.`, trained ? curveChart(S, `Learning curves of candidate ${id}`, curves) : emptiness("It was never trained, or has no score yet.")),
      card("Training loss", "Of every trial.", lossChart(`Training loss of candidate ${id}`, candidate.trials)),
      trialsCard(S, candidate), tasksCard(S, candidate),
      parents.map((parent) => wide(card(`Difference to its parent ${parent}`, el("span", {}, "What was changed in the source of ", link(parent), ": ", candidate.operator || "no word on it", ". ", el("a", { href: `#/compare/${parent}/${id}`, text: "Side by side" })), sourcesDiffer(S, parent, id)))),
      wide(card("Source", null, sourceView(S, candidate))),
      card("Ancestors and descendants", null, tree), childrenCard(S, candidate)),
  ];
}

function compareView(S, a, b) {
  const [left, right] = [S.byId.get(a), S.byId.get(b)];
  const { run } = S;
  const { decimals, steps } = run;
  const choose = (label, value, make) => select(label, options(S, null), value, (key) => { location.hash = make(key); });
  const score = (rung) => (c) => ((c.scores[rung] ?? null) === null ? null : c.scores[rung]);
  const row = (label, value, words, change) => {
    const [x, y] = [value(left), value(right)];
    const both = x !== null && x !== undefined && y !== null && y !== undefined;
    const worded = (z) => (z === null || z === undefined || z === "" ? NONE : words(z));
    return { label, x: worded(x), y: worded(y), change: both && change ? change(x, y) : "" };
  };
  const ratio = (x, y) => (x > 0 ? `× ${real(y / x)}` : "");
  const rows = [
    row("what became of it", (c) => outcome(S, c), String),
    ...steps.map((step, rung) => row(`${run.metric} at ${whole(step)} steps`, score(rung), (z) => z.toFixed(decimals), (x, y) => {
      const sigma = S.references[rung]?.sigma;
      return `${signed(y - x, decimals)}${sigma ? ` (${Math.abs((y - x) / sigma).toFixed(1)} σ of a seed)` : ""}`;
    })),
    row("parameters", (c) => c.cost.params, whole, ratio), row("FLOPs of an inference", (c) => c.cost.flops, whole, ratio),
    row("µs of a training step", (c) => c.step_us, real, ratio), row("bytes in training", (c) => c.cost.memory_bytes, whole, ratio), row("operations", (c) => c.cost.ops, whole, ratio),
    row("trials", (c) => c.trials.length, whole), row("arm", (c) => c.arm, armName), row("how", (c) => c.operator, (z) => cut(z, 60)),
    row("made from", (c) => (c.parents.length ? c.parents : null), (z) => el("span", {}, linked(z))),
  ];
  const columns = [
    { heading: "", cell: (d) => d.label }, { heading: `candidate ${a}`, right: true, cell: (d) => d.x },
    { heading: `candidate ${b}`, right: true, cell: (d) => d.y }, { heading: "from one to the other", right: true, cell: (d) => d.change },
  ];
  columns[0].heading = "what";
  const curves = [...seriesOf(S, left, "var(--second)", true), ...(a === b ? [] : seriesOf(S, right, "var(--accent)", true))];
  return [
    el("p", { class: "back" }, el("a", { href: "#/", text: "← All candidates" })),
    el("h1", { text: `Candidates ${a} and ${b}` }),
    el("div", { class: "tools" }, choose("First", a, (key) => `#/compare/${key}/${b}`), choose("Second", b, (key) => `#/compare/${a}/${key}`), el("a", { class: "button", href: `#/compare/${b}/${a}`, text: "Swap" })),
    el("div", { class: "grid" },
      [left, right].map((c, index) => card(`Candidate ${c.id}`, null, el("p", { class: `idea side-${index}`, text: c.idea || c.name }), el("p", {}, link(c.id, `Its page`)))),
      wide(card("Numbers", `Best trial at each rung, baselines by the mean over their seeds. ${sentence(S.state.label)}.`, table("Numbers", columns, rows))),
      wide(card("Learning curves", `Orange ${a}, blue ${b}; bold their best trials.`, curveChart(S, `Learning curves of candidates ${a} and ${b}`, curves))),
      wide(card("Sources", `Red lines are only in ${a}, green ones only in ${b}.`, sideBySide(S, a, b)))),
  ];
}
