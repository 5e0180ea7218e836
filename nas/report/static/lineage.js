// Who was made from whom, as a tree from left to right: first parents are lines, further parents are dashed.

const LINEAGE_NODES = 48;
const LINEAGE_ROW = 24;

/** A candidate and its first parents, the candidate first. */
function pathTo(S, id) {
  const path = [];
  for (let at = S.byId.get(id); at && !path.includes(at.id); at = S.byId.get(at.parents[0])) path.push(at.id);
  return path;
}

/** Candidates to draw: with `focus` its ancestors and descendants, else the path to the best and the best with theirs. */
function relatives(S, focus, most) {
  const kept = new Set();
  const withAncestors = (id) => {
    const waiting = [id];
    while (waiting.length) {
      const one = waiting.pop();
      if (kept.has(one) || !S.byId.has(one)) continue;
      kept.add(one);
      waiting.push(...S.byId.get(one).parents);
    }
  };
  if (focus !== null) {
    withAncestors(focus);
    const waiting = [focus];
    while (waiting.length && kept.size < most) {
      for (const child of S.children.get(waiting.shift()) ?? []) {
        if (!kept.has(child)) waiting.push(child);
        kept.add(child);
      }
    }
    return kept;
  }
  const ranked = S.rows.map((row) => row.candidate);
  const others = S.candidates.map((c) => c.id);
  for (const id of [...ranked, ...others]) {
    const family = S.byId.get(id).parents.length > 0 || S.children.has(id) || id === S.best?.candidate;
    if (family && kept.size < most) withAncestors(id);
  }
  return kept;
}

function treeOf(S, kept) {
  const parentOf = (id) => {
    const first = S.byId.get(id).parents.find((parent) => kept.has(parent));
    return first === undefined || pathTo(S, first).includes(id) ? "root" : String(first);
  };
  const ids = [...kept].sort((a, b) => a - b);
  const nodes = [{ id: "root", parent: null }, ...ids.map((id) => ({ id: String(id), parent: parentOf(id) }))];
  return Charts.stratify().id((d) => d.id).parentId((d) => d.parent)(nodes);
}

function lineageChart(S, { focus = null, all = false } = {}) {
  const kept = relatives(S, focus, all ? Infinity : LINEAGE_NODES);
  if (![...kept].some((id) => S.byId.get(id).parents.some((parent) => kept.has(parent)))) return emptiness(focus === null ? "No candidate was made from another yet." : "It was made from nothing, and nothing was made from it.");
  const target = focus ?? S.best?.candidate ?? null;
  const hot = new Set(target === null ? [] : pathTo(S, target));
  const root = treeOf(S, kept);
  Charts.tree().nodeSize([LINEAGE_ROW, 1]).separation(() => 1)(root);
  const nodes = root.descendants().filter((node) => node.data.id !== "root");
  const { decimals } = S.run;
  const least = Math.min(...nodes.map((node) => node.x));
  const depth = Math.max(...nodes.map((node) => node.depth)) - 1;
  const height = Math.max(...nodes.map((node) => node.x)) - least + LINEAGE_ROW + 16;
  const shown = nodes.map((node) => {
    const candidate = S.byId.get(Number(node.data.id));
    const at = S.at.get(candidate.id);
    const label = at ? `${candidate.id}  ${at.score.toFixed(decimals)}` : `${candidate.id}`;
    return { candidate: candidate.id, about: candidate, at, label, level: node.depth - 1, y: node.x - least + LINEAGE_ROW / 2 + 4, hot: hot.has(candidate.id), leaf: !node.children, long: label.length * 6.9 + 12 };
  });
  const place = new Map(shown.map((d) => [d.candidate, d]));
  const name = focus === null ? "Lineage, with the path to the best" : `Ancestors and descendants of candidate ${focus}`;
  const draw = (available) => {
    const spare = available - (120 + depth * 114); // room for what was changed, behind the last of a line
    const words = spare > 90 ? Math.min(190, spare) : 0;
    const step = Math.max(114, Math.min(230, (available - 120 - words) / Math.max(1, depth)));
    const width = Math.max(available, Math.ceil(120 + depth * step + words));
    const x = (d) => 14 + d.level * step;
    const free = (d) => {
      const begin = x(d) + d.long;
      const ahead = shown.filter((o) => o !== d && Math.abs(o.y - d.y) < 16 && x(o) + o.long > begin).map(x);
      return Math.min(width, ...ahead) - begin - 20;
    };
    const said = shown.filter((d) => d.leaf && d.level > 0 && d.about.operator).map((d) => ({ ...d, room: Math.floor(free(d) / 6.6) })).filter((d) => d.room >= 8);
    const links = shown.flatMap((d) =>
      d.about.parents.filter((id) => place.has(id)).map((id, index) => {
        const from = place.get(id);
        return { x1: x(from) + from.long, y1: from.y, x2: x(d) - 7, y2: d.y, second: index > 0, hot: index === 0 && d.hot && from.hot };
      })).filter((d) => d.x2 > d.x1 - 60);
    const line = (rows, options) => Charts.link(rows, { x1: "x1", y1: "y1", x2: "x2", y2: "y2", curve: "bump-x", ...options });
    const svg = plot(width, height, {
      margin: 0, marginLeft: 0, marginRight: 0, marginTop: 0, marginBottom: 0,
      x: { type: "identity", axis: null },
      y: { type: "identity", axis: null },
      marks: [
        line(links.filter((d) => !d.second && !d.hot), { stroke: "var(--edge)", strokeWidth: 1.4 }),
        line(links.filter((d) => d.second), { stroke: "var(--second)", strokeWidth: 1.2, strokeDasharray: "4 3", strokeOpacity: 0.8 }),
        line(links.filter((d) => d.hot), { stroke: "var(--accent)", strokeWidth: 3 }),
        Charts.dot(shown, { x, y: "y", r: (d) => (d.hot ? 5.5 : 4.2), symbol: (d) => armSymbol(d.about.arm), fill: (d) => (d.at ? armColor(d.about.arm) : "var(--card)"), stroke: (d) => armColor(d.about.arm), strokeWidth: 1.4, href, ariaLabel: (d) => `candidate ${d.label}` }),
        Charts.text(shown, { x: (d) => x(d) + 9, y: "y", text: "label", textAnchor: "start", fontWeight: (d) => (d.hot ? 700 : 400), fill: (d) => (d.at ? "var(--ink)" : "var(--soft)"), ...halo, href }),
        Charts.text(said, { x: (d) => x(d) + d.long + 2, y: "y", text: (d) => cut(d.about.operator, d.room), textAnchor: "start", fill: "var(--soft)", ...halo }),
        tip(shown, { x, y: "y", title: (d) => `candidate ${d.candidate} · ${d.about.arm}${d.about.operator ? ` · ${cut(d.about.operator, 40)}` : ""}\n${d.at ? `${d.at.score.toFixed(decimals)} at ${whole(S.run.steps[d.at.rung])} steps` : outcome(S, d.about)}\n${cutMiddle(d.about.name, 60)}` }),
      ],
    });
    for (const label of svg.querySelectorAll("g[aria-label=text] a")) label.setAttribute("aria-hidden", "true");
    tabbable(svg, new Set([...hot].map((id) => `#/c/${id}`)));
    for (const label of svg.querySelectorAll("g[aria-label=text] a")) label.setAttribute("tabindex", "-1");
    return svg;
  };
  const columns = [
    { heading: "candidate", cell: (d) => link(d.candidate) },
    { heading: "made from", cell: (d) => linked(d.about.parents) },
    { heading: "arm", cell: (d) => d.about.arm },
    { heading: "operator", cell: (d) => cut(d.about.operator, 60) },
    { heading: "outcome", cell: (d) => outcome(S, d.about) },
  ];
  const arms = ARMS.filter((arm) => shown.some((d) => d.about.arm === arm));
  const seconds = shown.some((d) => d.about.parents.filter((id) => place.has(id)).length > 1);
  const key = el("p", { class: "legend" }, arms.map(armName), seconds && el("span", { class: "second" }, el("span", { class: "dashed", "aria-hidden": "true" }), "further parent"));
  const drawn = figure(name, draw, { columns, rows: () => [...shown].sort((a, b) => a.candidate - b.candidate) }, key);
  const host = drawn.firstElementChild;
  for (const [key, value] of Object.entries({ class: "plot scroll", tabindex: "0", role: "region", "aria-label": name })) host.setAttribute(key, value);
  return drawn;
}
