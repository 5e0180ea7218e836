// The charts, by the bundled library. Each is drawn for the width it has, carries a name, and has its data behind it.

const ARMS = ["baseline", "random", "evolution", "claude", "claude_blind", "guest", "tune"];
const SYMBOLS = ["square", "circle", "triangle", "diamond", "star", "cross", "wye"];
const GLYPHS = ["■", "●", "▲", "◆", "★", "✚", "▼"];
const armIndex = (arm) => Math.max(0, ARMS.indexOf(arm));
const armColor = (arm) => `var(--arm-${armIndex(arm)})`;
const armSymbol = (arm) => SYMBOLS[armIndex(arm)];

/** The name of an arm with its mark, as in the charts. */
function armName(arm) {
  const mark = el("span", { class: `mark arm-${armIndex(arm)}`, "aria-hidden": "true", text: GLYPHS[armIndex(arm)] });
  return el("span", { class: "arm", title: arm }, mark, el("span", { class: "word", text: arm }));
}

const legend = (arms) => el("p", { class: "legend" }, arms.map(armName));

/** Draw again whenever the width changes. `draw(width)` returns an SVG; `data` is {columns, rows} of the table behind. */
function figure(name, draw, data, ...below) {
  const host = el("div", { class: "plot" });
  let width = 0;
  const observer = new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (!now || now === width) return;
    width = now;
    requestAnimationFrame(() => host.replaceChildren(dressed(draw(now), name)));
  });
  observer.observe(host);
  return el("div", { class: "figure" }, host, below, data ? behind(name, data) : null);
}

/** A chart with a name and roles, and without the style element that the content security policy would refuse. */
function dressed(svg, name) {
  for (const style of svg.querySelectorAll("style")) style.remove();
  for (const group of svg.querySelectorAll("g[aria-label]")) group.setAttribute("role", "group");
  svg.setAttribute("role", svg.querySelector("a") ? "group" : "img");
  svg.setAttribute("aria-label", name);
  return svg;
}

/** The table behind a chart, made when it is opened. */
function behind(name, { columns, rows }) {
  const details = el("details", { class: "behind", "data-key": `data ${name.replace(/[\d,]+/g, "")}` }, el("summary", { text: "Data" }));
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(table(`Data of: ${name}`, columns, rows()));
  });
  return details;
}

function plot(width, height, options) {
  return Charts.plot({
    className: "chart",
    width,
    height,
    marginLeft: 52,
    marginRight: 18,
    marginTop: 26,
    marginBottom: 38,
    ...options,
    marks: options.marks.flat(Infinity).filter(Boolean), // the library takes null for no mark, and false for an error
  });
}

const tip = (rows, options) =>
  Charts.tip(rows, Charts.pointer({ fill: "var(--card)", stroke: "var(--edge)", fontSize: 12, ...options }));
const halo = { stroke: "var(--card)", strokeWidth: 4, strokeLinejoin: "round" };
const href = (d) => `#/c/${d.candidate}`;

/** Leave all links of a chart to the pointer but those of the marks that `wanted` picks; the table has them all. */
function tabbable(svg, wanted) {
  for (const link of svg.querySelectorAll("a")) {
    const target = link.getAttribute("href") ?? link.getAttributeNS("http://www.w3.org/1999/xlink", "href");
    if (!wanted.has(target)) link.setAttribute("tabindex", "-1");
  }
  return svg;
}

/** A range of scores that the few worst do not stretch: marks beyond it stand on its edge. */
function scoreDomain(scores, maximize, left = 0.03) {
  const sorted = scores.filter((s) => s !== null && s !== undefined).sort((a, b) => a - b);
  if (!sorted.length) return [0, 1];
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const [low, high] = maximize ? [at(left), at(1)] : [at(0), at(1 - left)];
  const room = (high - low || Math.abs(high) || 1) * 0.07;
  return [low - room, high + room];
}

/** A word on the marks that stand on the edge, if there are any. */
function edge(rows, [low, high]) {
  const beyond = rows.filter((d) => d.score < low || d.score > high).length;
  return beyond ? el("p", { class: "legend", text: `${plural(beyond, "result")} beyond the axis ${beyond === 1 ? "stands" : "stand"} on its edge.` }) : null;
}

// ---- the board's charts

function bestSoFar(S) {
  const rows = S.progress.map(([trial, candidate, rung, score, record], index) => ({
    index: index + 1, trial, candidate, rung, score, record,
  }));
  if (!rows.length) return emptiness("No result yet.");
  const { steps, decimals, maximize, metric } = S.run;
  const reached = [...new Set(rows.map((d) => d.rung))].sort((a, b) => a - b);
  const top = reached.at(-1);
  const against = S.references[top];
  const lines = reached.map((rung) => {
    const line = rows.filter((d) => d.rung === rung && d.record).map((d) => ({ ...d, at: d.index }));
    return { rung, line: [...line, { ...line.at(-1), at: rows.length + 0.5, end: true }] };
  });
  const shade = (rung) => (rung === top ? 1 : 0.28 + (0.3 * rung) / Math.max(1, top));
  const domain = scoreDomain([...rows.map((d) => d.score), against?.score], maximize, 0.1);
  const name = `Best ${metric} so far, over ${rows.length} results`;
  const draw = (width) => {
    const spaced = labelled(lines.at(-1).line.filter((d) => !d.end), width - 140, rows.length);
    const ends = apart(lines.map(({ rung, line }) => ({ rung, ...line.at(-1) })), domain, 316 - 64);
    const svg = plot(width, 316, {
      marginRight: 80,
      x: { label: "results, in the order of decisions", domain: [0.5, rows.length + 0.5], ticks: wholeTicks(rows.length, width / 90), tickFormat: whole },
      y: { label: metric, domain, clamp: true, grid: true, ticks: 6 },
      marks: [
        against && Charts.areaY([0.5, rows.length + 0.5], { x: (d) => d, y1: against.score - against.error, y2: against.score + against.error, fill: "var(--arm-0)", fillOpacity: 0.22 }),
        against && Charts.ruleY([against.score], { stroke: "var(--arm-0)", strokeWidth: 1.5, strokeDasharray: "5 4" }),
        Charts.dot(rows, { x: "index", y: "score", r: (d) => (d.rung === top ? 3.2 : 2.2), fill: "var(--accent)", fillOpacity: (d) => 0.75 * shade(d.rung), href, ariaLabel: (d) => `candidate ${d.candidate}` }),
        lines.map(({ rung, line }) => Charts.line(line, { x: "at", y: "score", curve: "step-after", stroke: "var(--accent)", strokeOpacity: shade(rung), strokeWidth: rung === top ? 2.6 : 1.6 })),
        Charts.dot(lines.at(-1).line.filter((d) => !d.end), { x: "at", y: "score", r: 4.5, fill: "var(--accent)", stroke: "var(--card)", strokeWidth: 1.5, href, ariaLabel: (d) => `record: candidate ${d.candidate}` }),
        Charts.text(spaced, { x: "at", y: "score", text: (d) => `${d.candidate}`, dy: maximize ? -11 : 13, fontWeight: 650, fill: "var(--ink)", ...halo }),
        Charts.text(ends, { x: "at", y: "y", text: (d) => `${whole(steps[d.rung])} steps`, dx: 11, textAnchor: "start", fill: "var(--soft)" }),
        tip(rows, { x: "index", y: "score", title: (d) => `candidate ${d.candidate}, trial ${d.trial}\n${d.score.toFixed(decimals)} at ${whole(steps[d.rung])} steps${d.record ? "\nbest so far there" : ""}` }),
      ],
    });
    return tabbable(svg, new Set(lines.at(-1).line.map(href)));
  };
  const columns = [
    { heading: "result", right: true, cell: (d) => whole(d.index) },
    { heading: "candidate", cell: (d) => link(d.candidate) },
    { heading: "trial", right: true, cell: (d) => d.trial },
    { heading: "steps", right: true, cell: (d) => whole(steps[d.rung]) },
    { heading: metric, right: true, cell: (d) => d.score.toFixed(decimals) },
  ];
  const note = against
    ? el("p", { class: "note" }, el("span", { class: "dashed arm-0", "aria-hidden": "true" }), `best baseline ${against.name}: ${against.score.toFixed(decimals)} ± ${against.error.toFixed(decimals)} at ${whole(steps[top])} steps, mean of ${against.seeds} seeds`)
    : null;
  return figure(name, draw, { columns, rows: () => rows.filter((d) => d.record) }, note, edge(rows, domain));
}

/** Whole numbers from 1 to a count, at most so many, in round steps. */
function wholeTicks(count, most) {
  const rough = Math.max(1, count / Math.max(2, most));
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((one) => one >= rough);
  return Array.from({ length: Math.floor(count / step) }, (_, index) => (index + 1) * step);
}

/** Those of the marks that have room for a label, the last ones first. */
function labelled(rows, width, count) {
  const kept = [];
  let right = Infinity;
  for (const row of [...rows].reverse()) {
    const x = (row.at / count) * width;
    if (x < right - 30) {
      kept.push(row);
      right = x;
    }
  }
  return kept;
}

/** Labels moved apart so that none lies on another: rows with `score`, returned with a `y` to write at. */
function apart(rows, [low, high], height, line = 15) {
  const sorted = [...rows].sort((a, b) => a.score - b.score);
  const unit = (high - low) / height;
  let below = -Infinity;
  const placed = sorted.map((row) => {
    below = Math.max(Math.min(Math.max(row.score, low), high), below + line * unit);
    return { ...row, y: below };
  });
  const over = placed.length ? Math.max(0, placed.at(-1).y - high) : 0;
  return placed.map((row) => ({ ...row, y: row.y - over }));
}

/** What quality is set against: a word for choosing it, one for an axis, and how its numbers are written. */
const MEASURES = {
  params: { word: "parameters", unit: "parameters", text: whole },
  flops: { word: "FLOPs", unit: "FLOPs of an inference", text: whole },
  step_us: { word: "step time", unit: "µs of a training step", text: real },
};
const sizeOf = (S, rung, measure, candidate) => S.sizes[rung][measure][candidate.id] ?? null;

function frontChart(S, rung, measure) {
  const { steps, decimals, metric, maximize } = S.run;
  const { unit, text } = MEASURES[measure];
  const rows = S.candidates
    .filter((c) => c.scores[rung] !== null && c.scores[rung] !== undefined && sizeOf(S, rung, measure, c))
    .map((c) => ({ candidate: c.id, name: c.name, arm: c.arm, score: c.scores[rung], size: sizeOf(S, rung, measure, c) }));
  if (!rows.length) return emptiness(`No candidate has a score at ${whole(steps[rung])} steps yet.`);
  const order = S.fronts[rung][measure];
  const by = new Map(rows.map((d) => [d.candidate, d]));
  const ahead = order.map((id) => by.get(id)).filter(Boolean);
  const isAhead = new Set(order);
  const name = `${metric} against ${unit} at ${whole(steps[rung])} steps`;
  const sizes = rows.map((d) => d.size);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const domain = scoreDomain(rows.map((d) => d.score), maximize);
  const room = most / least < 2 ? 2 : 1.25;
  const [from, to] = [least / room, most * room];
  const line = [...ahead, { ...ahead.at(-1), size: to }];
  const draw = (width) => {
    const inner = width - 70;
    const place = (d) => (Math.log(d.size / from) / Math.log(to / from)) * inner;
    const spaced = labelled(ahead.map((d) => ({ ...d, at: place(d) })), 1, 1);
    const svg = plot(width, 316, {
      x: { type: "log", domain: [from, to], label: `${unit}, log scale`, ticks: logTicks(from, to, width / 70), tickFormat: short },
      y: { label: metric, domain, clamp: true, grid: true, ticks: 6 },
      marks: [
        Charts.line(line, { x: "size", y: "score", curve: "step-after", stroke: "var(--front)", strokeWidth: 2 }),
        Charts.dot(rows.filter((d) => !isAhead.has(d.candidate)), { x: "size", y: "score", r: 4, symbol: (d) => armSymbol(d.arm), fill: (d) => armColor(d.arm), fillOpacity: 0.55, href, ariaLabel: (d) => `candidate ${d.candidate}` }),
        Charts.dot(ahead, { x: "size", y: "score", r: 6, symbol: (d) => armSymbol(d.arm), fill: (d) => armColor(d.arm), stroke: "var(--card)", strokeWidth: 1.4, href, ariaLabel: (d) => `on the front: candidate ${d.candidate}, ${d.score.toFixed(decimals)} with ${text(d.size)}` }),
        Charts.text(spaced, { x: "size", y: "score", text: (d) => `${d.candidate}`, dy: maximize ? -13 : 15, fontWeight: 650, ...halo, fill: "var(--ink)" }),
        tip(rows, { x: "size", y: "score", title: (d) => `candidate ${d.candidate} · ${d.arm}\n${d.score.toFixed(decimals)} with ${text(d.size)} ${unit}\n${cutMiddle(d.name, 60)}` }),
      ],
    });
    return tabbable(svg, new Set(ahead.map(href)));
  };
  const columns = [
    { heading: "candidate", cell: (d) => link(d.candidate) },
    { heading: "arm", cell: (d) => d.arm },
    { heading: unit, right: true, cell: (d) => text(d.size) },
    { heading: metric, right: true, cell: (d) => d.score.toFixed(decimals) },
    { heading: "on the front", cell: (d) => (isAhead.has(d.candidate) ? "yes" : "") },
  ];
  const arms = ARMS.filter((arm) => rows.some((d) => d.arm === arm));
  return figure(name, draw, { columns, rows: () => [...rows].sort((a, b) => a.size - b.size) }, legend(arms), edge(rows, domain));
}

/** Ticks 1, 2, 5 × 10^n inside a range, at most so many. */
function logTicks(low, high, most) {
  for (const digits of [[1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const digit of digits) if (digit * 10 ** power >= low && digit * 10 ** power <= high) found.push(digit * 10 ** power);
    if (found.length <= most && found.length >= 2) return found;
  }
  return [low, high].map((value) => Number(value.toPrecision(1)));
}

/** Scores over training steps: `series` are {name, candidate?, points: [[step, score]], color, width, opacity, dash}. */
function curveChart(S, name, series, { height = 316, ends = true } = {}) {
  const { steps, decimals, metric, maximize } = S.run;
  const rows = series.flatMap((one, z) => one.points.map(([step, score]) => ({ ...one, z, step, score })));
  if (!rows.length) return emptiness("No score yet.");
  const domain = scoreDomain(rows.map((d) => d.score), maximize);
  const low = steps[0] / 1.15;
  const high = steps.at(-1) * 1.15;
  const named = series.filter((one) => one.label && one.points.length);
  const last = apart(named.map((one) => ({ ...one, step: one.points.at(-1)[0], score: one.points.at(-1)[1] })), domain, height - 64);
  const groups = new Map();
  for (const one of series) {
    const key = JSON.stringify([one.color, one.width, one.opacity, one.dash]);
    if (!groups.has(key)) groups.set(key, { ...one, z: [] });
    groups.get(key).z.push(one);
  }
  const draw = (width) => {
    const most = ends ? Math.min(150, Math.max(0, ...named.map((one) => one.label.length * 6.8 + 14)), width / 3) : 18;
    return plot(width, height, {
      marginRight: Math.max(18, most),
      x: { type: "log", domain: [low, high], label: "training steps, log scale", ticks: steps, tickFormat: (d) => (width < 380 ? short(d) : whole(d)), grid: true },
      y: { label: metric, domain, clamp: true, grid: true, ticks: 6 },
      marks: [
        [...groups.values()].map((group) => {
          const own = group.z.flatMap((one, z) => one.points.map(([step, score]) => ({ step, score, z })));
          return [
            Charts.line(own, { x: "step", y: "score", z: "z", stroke: group.color, strokeWidth: group.width, strokeOpacity: group.opacity, strokeDasharray: group.dash }),
            Charts.dot(own, { x: "step", y: "score", r: group.width > 2 ? 3.6 : 1.8, fill: group.color, fillOpacity: group.opacity }),
          ];
        }),
        ends && Charts.text(last, { x: "step", y: "y", text: (d) => cut(d.label, Math.floor(most / 6.8)), dx: 9, textAnchor: "start", fill: "var(--ink)", fontWeight: (d) => (d.width > 2 ? 650 : 400) }),
        tip(rows, { x: "step", y: "score", title: (d) => `${d.name}\n${d.score.toFixed(decimals)} at ${whole(d.step)} steps` }),
      ],
    });
  };
  const columns = [
    { heading: "of", cell: (d) => (d.candidate ? link(d.candidate, d.name) : d.name) },
    ...steps.map((step) => ({
      heading: `${whole(step)} steps`, right: true,
      cell: (d) => d.points.find((point) => point[0] === step)?.[1].toFixed(decimals),
    })),
  ];
  return figure(name, draw, { columns, rows: () => [...series].reverse() }, edge(rows, domain));
}

/** Training loss over steps, on a log scale where it is positive. */
function lossChart(name, trials) {
  const series = trials.map((trial) => ({
    trial,
    points: trial.losses.flatMap(([from, to, losses]) =>
      losses.map((loss, index) => ({ step: from + ((to - from) * (index + 1)) / losses.length, loss, trial: trial.id }))),
  }));
  const rows = series.flatMap((one) => one.points).filter((d) => d.loss !== null);
  if (!rows.length) return emptiness("No training loss was recorded.");
  const log = rows.every((d) => d.loss > 0);
  const values = rows.map((d) => d.loss);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const domain = log ? [low / 1.08, high * 1.08] : [low, high];
  const furthest = Math.max(...rows.map((d) => d.step));
  const draw = (width) =>
    plot(width, 260, {
      x: { label: "training steps", domain: [0, furthest], ticks: Math.max(2, width / 90), tickFormat: short },
      y: { type: log ? "log" : "linear", domain, label: `training loss${log ? ", log scale" : ""}`, grid: true, ticks: log ? linearTicks(low, high) : 5, tickFormat: (d) => String(Number(d.toPrecision(3))) },
      marks: [
        Charts.line(rows, { x: "step", y: "loss", z: "trial", stroke: "var(--accent)", strokeOpacity: series.length > 4 ? 0.45 : 0.85, strokeWidth: 1.5 }),
        tip(rows, { x: "step", y: "loss", title: (d) => `trial ${d.trial}\nloss ${real(d.loss)} at ${whole(Math.round(d.step))} steps` }),
      ],
    });
  const columns = [
    { heading: "trial", right: true, cell: (d) => d.trial },
    { heading: "step", right: true, cell: (d) => whole(Math.round(d.step)) },
    { heading: "training loss", right: true, cell: (d) => real(d.loss) },
  ];
  return figure(name, draw, { columns, rows: () => rows });
}

/** Five or so round numbers between two that a log axis can name. */
function linearTicks(low, high) {
  if (high / low > 5) return logTicks(low, high, 8);
  const rough = (high - low) / 5;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((one) => one >= rough);
  const ticks = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) ticks.push(at);
  return ticks;
}

function liftChart(arms) {
  const rows = arms.filter((arm) => arm.lift).map((arm) => ({ arm: arm.name, ...arm.lift }));
  if (!rows.length) return null;
  const reach = Math.min(3, Math.max(0.5, ...rows.flatMap((d) => [Math.abs(d.low), Math.abs(d.high)])) * 1.1);
  const held = (value) => Math.max(-reach, Math.min(reach, value));
  const draw = (width) =>
    plot(width, 66 + 34 * rows.length, {
      marginLeft: 96,
      marginTop: 12,
      x: { label: "lift over random, in normal scores", domain: [-reach, reach], grid: true, ticks: width < 420 ? 3 : 5, tickFormat: (d) => around(d, reach < 1 ? 2 : 1) },
      y: { label: null, domain: rows.map((d) => d.arm), tickSize: 0, padding: 0.4, type: "point" },
      marks: [
        Charts.ruleX([0], { stroke: "var(--soft)" }),
        Charts.link(rows, { x1: (d) => held(d.low), x2: (d) => held(d.high), y1: "arm", y2: "arm", stroke: (d) => armColor(d.arm), strokeWidth: 3, strokeOpacity: 0.55 }),
        Charts.dot(rows, { x: (d) => held(d.lift), y: "arm", r: 6, symbol: (d) => armSymbol(d.arm), fill: (d) => armColor(d.arm) }),
        tip(rows, { x: (d) => held(d.lift), y: "arm", title: (d) => `${d.arm}\n${signed(d.lift, 2)} [${signed(d.low, 2)}, ${signed(d.high, 2)}]` }),
      ],
    });
  return figure("Lift of each arm over the random arm, with 95 % intervals", draw);
}

/** The area that the front dominates, over the results of the search at one rung. */
function areaChart(S, found) {
  const first = { results: 0, trial: null, area: found.baselines };
  const grown = [first, ...found.growth.map(([results, trial, area]) => ({ results, trial, area }))];
  const rows = [...grown, { ...grown.at(-1), results: found.results, trial: null }];
  const high = rows.at(-1).area || 1;
  const low = Math.min(found.baselines, 0.98 * high);
  const { decimals, metric } = S.run;
  const sizes = MEASURES[found.measure].word;
  const draw = (width) =>
    plot(width, 190, {
      marginTop: 30,
      x: { label: `results at ${whole(S.run.steps[found.rung])} steps`, domain: [0, found.results], ticks: wholeTicks(found.results, width / 90), tickFormat: whole },
      y: { label: `hypervolume: ${metric} × doublings of ${sizes}`, domain: [low, high + 0.04 * (high - low)], grid: true, ticks: 4 },
      marks: [
        Charts.ruleY([found.baselines], { stroke: "var(--arm-0)", strokeWidth: 1.5, strokeDasharray: "5 4" }),
        Charts.line(rows, { x: "results", y: "area", curve: "step-after", stroke: "var(--accent)", strokeWidth: 2.2 }),
        tip(rows, { x: "results", y: "area", title: (d) => `${d.area.toFixed(decimals)} after ${plural(d.results, "result")}` }),
      ],
    });
  const columns = [
    { heading: "results", right: true, cell: (d) => whole(d.results) },
    { heading: "trial", right: true, cell: (d) => d.trial },
    { heading: "hypervolume", right: true, cell: (d) => d.area.toFixed(decimals) },
  ];
  return figure(`Hypervolume against ${sizes}, over ${found.results} results`, draw, { columns, rows: () => rows });
}

/** Kendall's tau for each pair of rungs: a dot for the survivors, a ring for all. */
function proxyChart(S) {
  const pair = (d) => `${short(S.run.steps[d.lower])} → ${short(S.run.steps[d.upper])}`;
  const known = S.proxies.filter((d) => d.tau);
  if (!known.length) return null;
  const rows = known.flatMap((d) => [
    { pair: `${pair(d)}, sent on`, ...d.tau, all: false },
    ...(d.of_all ? [{ pair: `${pair(d)}, all`, ...d.of_all, all: true }] : []),
  ]);
  const low = Math.min(-0.25, ...rows.map((d) => d.low));
  const draw = (width) =>
    plot(width, 66 + 30 * rows.length, {
      marginLeft: 128,
      marginTop: 12,
      x: { label: "Kendall’s τ", domain: [low, 1], grid: true, ticks: width < 420 ? 3 : 5, tickFormat: (d) => around(d, 1) },
      y: { label: null, domain: rows.map((d) => d.pair), tickSize: 0, padding: 0.4, type: "point" },
      marks: [
        Charts.ruleX([0], { stroke: "var(--soft)" }),
        Charts.link(rows, { x1: "low", x2: "high", y1: "pair", y2: "pair", stroke: "var(--accent)", strokeWidth: 3, strokeOpacity: 0.55 }),
        Charts.dot(rows, { x: "value", y: "pair", r: 5.5, fill: (d) => (d.all ? "var(--card)" : "var(--accent)"), stroke: "var(--accent)", strokeWidth: 2 }),
        tip(rows, { x: "value", y: "pair", title: (d) => `${d.pair}\n${signed(d.value, 2)} [${signed(d.low, 2)}, ${signed(d.high, 2)}]` }),
      ],
    });
  return figure("Kendall’s rank correlation between rungs, with 95 % intervals", draw);
}

function calibrationChart(found) {
  const rows = found.bins.map((bin) => ({ ...bin, ...wilson(bin.observed, bin.count) }));
  const draw = (width) =>
    plot(width, 280, {
      x: { label: "forecast", domain: [0, 1], ticks: 5, tickFormat: percent },
      y: { label: "came true", domain: [0, 1], ticks: 5, grid: true, tickFormat: percent },
      marks: [
        Charts.line([[0, 0], [1, 1]], { stroke: "var(--soft)", strokeDasharray: "5 4" }),
        Charts.link(rows, { x1: "forecast", x2: "forecast", y1: "from", y2: "to", stroke: "var(--accent)", strokeWidth: 2, strokeOpacity: 0.6 }),
        Charts.dot(rows, { x: "forecast", y: "observed", r: 5, fill: "var(--accent)" }),
        Charts.text(rows, { x: "forecast", y: "observed", text: (d) => `${d.count}`, dx: 9, textAnchor: "start", ...halo, fill: "var(--ink)" }),
      ],
    });
  const columns = [
    { heading: "forecast between", cell: (d) => `${percent(d.low)} and ${percent(d.high)}` },
    { heading: "trials", right: true, cell: (d) => d.count },
    { heading: "mean forecast", right: true, cell: (d) => percent(d.forecast) },
    { heading: "came true", right: true, cell: (d) => percent(d.observed) },
    { heading: "90 % interval", right: true, cell: (d) => `${percent(d.from)} to ${percent(d.to)}` },
  ];
  return figure("Forecasts against what came true, with 90 % intervals", draw, { columns, rows: () => rows });
}

/** Wilson's 90 % interval of a share. */
function wilson(share, count) {
  const z = 1.6449;
  const scale = 1 + (z * z) / count;
  const middle = (share + (z * z) / (2 * count)) / scale;
  const half = (z / scale) * Math.sqrt((share * (1 - share)) / count + (z * z) / (4 * count * count));
  return { from: Math.max(0, middle - half), to: Math.min(1, middle + half) };
}

function costChart(cost) {
  const rows = cost.over.map(([slot, usd]) => ({ slot, usd }));
  if (!rows.some((d) => d.usd > 0)) return null;
  const limit = cost.limit_usd === null ? null : Number(cost.limit_usd);
  const most = rows.at(-1).usd;
  const shown = limit !== null && limit < 3 * most;
  const draw = (width) =>
    plot(width, 220, {
      x: { label: "decisions", ticks: Math.max(2, width / 90), tickFormat: whole },
      y: { label: "US dollars", domain: [0, (shown ? limit : most) * 1.12], grid: true, ticks: 5, tickFormat: (d) => `$${Number(d.toPrecision(3))}` },
      marks: [
        Charts.areaY(rows, { x: "slot", y: "usd", curve: "step-after", fill: "var(--accent)", fillOpacity: 0.16 }),
        Charts.line(rows, { x: "slot", y: "usd", curve: "step-after", stroke: "var(--accent)", strokeWidth: 2 }),
        shown && Charts.ruleY([limit], { stroke: "var(--bad)", strokeDasharray: "5 4" }),
        shown && Charts.text(["limit"], { frameAnchor: "left", y: limit, dx: 4, dy: -8, textAnchor: "start", fill: "var(--bad)" }),
        tip(rows, { x: "slot", y: "usd", title: (d) => `$${d.usd.toFixed(4)} after decision ${d.slot}` }),
      ],
    });
  const columns = [
    { heading: "decision", right: true, cell: (d) => d.slot },
    { heading: "dollars so far", right: true, cell: (d) => d.usd.toFixed(4) },
  ];
  return figure("Dollars spent on the model, over the decisions", draw, { columns, rows: () => rows });
}

/** A table whose numbers are bars too: rows of {label, value, text, hint}. */
function bars(caption, headings, rows, tone = "") {
  const most = Math.max(...rows.map((row) => row.value), 1e-12);
  const bar = (row) => {
    const filled = el("span", { class: `bar ${row.tone ?? tone}` });
    filled.style.setProperty("inline-size", `${Math.max(row.value > 0 ? 1 : 0, (100 * row.value) / most)}%`);
    return el("td", { class: "bars" }, filled);
  };
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el(
      "table",
      { class: "barred" },
      el("caption", { class: "unseen", text: caption }),
      el("thead", { class: "unseen" }, el("tr", {}, headings.map((text) => el("th", { scope: "col", text })), el("th", { scope: "col", text: "as a bar" }))),
      el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.label, row.hint ? el("small", {}, row.hint) : null), el("td", { class: "number", text: row.text }), bar(row)))),
    ),
  );
}
