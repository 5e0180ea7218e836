// Which view is shown, in which colours, and, where a search is served, how newer data comes in.

const POLL_MS = 2000;
const RETRY_MS = 6000;

/** The data with what is looked up often: candidates by id, rows by candidate, children by parent. */
function prepared(data) {
  const children = new Map();
  for (const candidate of data.candidates)
    for (const parent of candidate.parents) children.set(parent, [...(children.get(parent) ?? []), candidate.id]);
  return {
    ...data,
    byId: new Map(data.candidates.map((candidate) => [candidate.id, candidate])),
    at: new Map(data.rows.map((row) => [row.candidate, row])),
    best: data.rows.find((row) => row.arm !== "baseline"),
    children,
  };
}

const view = { measure: "params", rung: null, tree: false, board: { key: "rank", down: false, find: "", all: false, picked: [] } };
const main = document.getElementById("main");
const live = document.documentElement.dataset.live;
let S = prepared(JSON.parse(document.getElementById("data").textContent));
let seen = null;
if (S.confirmed) Object.assign(view.board, { key: "test", down: S.run.maximize });
const scrolled = new Map();

function content(hash) {
  const one = hash.match(/^#\/c\/(\d+)$/);
  const two = hash.match(/^#\/compare\/(\d+)\/(\d+)$/);
  const ids = (one ?? two ?? []).slice(1).map(Number);
  const unknown = ids.filter((id) => !S.byId.has(id));
  if (unknown.length)
    return [`Candidate ${unknown[0]}`, [el("p", { class: "back" }, el("a", { href: "#/", text: "← All candidates" })), el("h1", { text: `There is no candidate ${unknown[0]} in this run` })]];
  if (one) return [`Candidate ${ids[0]}`, candidateView(S, ids[0])];
  if (two) return [`Candidates ${ids.join(" and ")}`, compareView(S, ...ids)];
  return ["", boardView(S, view)];
}

function show() {
  const hash = location.hash === "#main" ? (seen ?? "#/") : location.hash || "#/";
  if (location.hash === "#main" && seen !== null) return main.focus();
  const moved = seen !== hash;
  if (moved && seen !== null) scrolled.set(seen, scrollY);
  const [title, nodes] = content(hash);
  document.title = [title, S.run.name, S.run.space].filter(Boolean).join(" · ");
  main.replaceChildren(...nodes.flat(Infinity).filter(Boolean));
  if (moved && seen !== null) {
    main.focus({ preventScroll: true });
    const to = hash === "#/" ? (scrolled.get(hash) ?? 0) : 0;
    requestAnimationFrame(() => requestAnimationFrame(() => scrollTo(0, to)));
  }
  seen = hash;
  return undefined;
}

/** Show newer data in the place of what is shown, and keep where the reader is: scroll, focus, opened tables. */
function refresh() {
  const open = new Set([...main.querySelectorAll("details[open]")].map((d) => d.dataset.key));
  const held = document.activeElement;
  const key = held?.dataset?.key;
  const id = held?.id;
  const caret = id === "find" ? held.selectionStart : null;
  const [x, y] = [scrollX, scrollY];
  main.style.setProperty("min-height", `${main.offsetHeight}px`); // the charts come a frame later
  show();
  for (const details of main.querySelectorAll("details")) if (open.has(details.dataset.key)) details.open = true;
  const again = key ? [...main.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key) : id && id !== "main" ? document.getElementById(id) : null;
  again?.focus({ preventScroll: true });
  if (caret !== null) again?.setSelectionRange(caret, caret);
  scrollTo(x, y);
  requestAnimationFrame(() => requestAnimationFrame(() => main.style.removeProperty("min-height")));
}

// ---- the frame of the page

const status = el("p", { class: "status", role: "status" });

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function head() {
  const theme = el("button", { type: "button", class: "button", id: "theme", onclick: () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    theme.textContent = dark() ? "Light" : "Dark";
  } });
  theme.textContent = dark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", "Switch between light and dark");
  document.getElementById("header").replaceChildren(
    el("a", { class: "home", href: "#/" }, el("strong", { text: S.run.name }), el("span", { text: `${S.run.space} · ${S.run.metric}, ${S.run.maximize ? "higher" : "lower"} is better` })),
    status, theme);
}

function foot() {
  const licenses = el("details", { class: "behind" }, el("summary", { text: "Chart library and its licences" }));
  licenses.addEventListener("toggle", () => {
    if (licenses.childElementCount === 1) licenses.append(el("pre", { tabindex: "0", "aria-label": "Licences", text: document.getElementById("licenses").content.textContent }));
  });
  document.getElementById("footer").replaceChildren(el("p", { text: "Scores are those that the search chose by, where nothing else is said; the best of many is partly luck. This page asks nothing of any network." }), licenses);
}

// ---- newer data

let tag = live;
let stopped = false;

async function poll() {
  let wait = POLL_MS;
  try {
    if (!document.hidden) {
      const answer = await fetch("snapshot.json", { headers: { "If-None-Match": `"${tag}"` }, cache: "no-store" });
      if (answer.status === 200) {
        S = prepared(await answer.json());
        tag = answer.headers.get("ETag").replaceAll('"', "");
        refresh();
      } else if (answer.status !== 304) throw new Error(answer.statusText);
      stopped = false;
      status.textContent = S.state.open_tasks ? `live · ${plural(S.state.open_tasks, "task")} open` : "live · no task open";
    }
  } catch {
    if (!stopped) status.textContent = `the server does not answer; this is the state of ${new Date().toLocaleTimeString()}`;
    stopped = true;
    wait = RETRY_MS;
  }
  setTimeout(poll, wait);
}

head();
foot();
addEventListener("hashchange", show);
show();
if (live !== "no") poll();
else status.textContent = S.state.open_tasks ? "not finished" : "";
