// Elements and words. Text from the run reaches the page through text nodes alone; nothing here reads markup.

/** Make an element: properties in camel case are set, `on…` are listeners, all else are attributes. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "text") node.textContent = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const NONE = "–";

/** A count in few characters: 950, 1.2k, 34k, 1.2M; as the terminal prints it. */
function short(number) {
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    const scaled = number / unit;
    if (scaled >= 0.9995) return scaled < 9.95 ? `${scaled.toFixed(1)}${name}` : `${scaled.toFixed(0)}${name}`;
  }
  return number.toFixed(0);
}

const whole = (number) => number.toLocaleString("en-US");
const real = (number) => (typeof number === "number" ? String(Number(number.toPrecision(3))) : String(number));
const minus = (text) => text.replace("-", "−");
const signed = (number, digits) => (number >= 0 ? "+" : "") + minus(number.toFixed(digits));
const around = (number, digits) => (number === 0 ? "0" : signed(number, digits));
const percent = (share) => `${Math.round(100 * share)} %`;
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

/** Seconds in words: 48 s, 3 min 12 s, 1 h 05 min. */
function duration(seconds) {
  const rounded = Math.round(seconds);
  if (rounded < 60) return seconds < 9.95 ? `${seconds.toFixed(1)} s` : `${rounded} s`;
  const pad = (number) => String(number).padStart(2, "0");
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min ${pad(rounded % 60)} s`;
  return `${Math.floor(rounded / 3600)} h ${pad(Math.floor((rounded % 3600) / 60))} min`;
}

const dollars = (text) => (Number(text) >= 1 ? `$${Number(text).toFixed(2)}` : `$${Number(text).toFixed(4)}`);

/** A text cut at a word, with an ellipsis. */
function cut(text, most) {
  if (text.length <= most) return text;
  const head = text.slice(0, most - 1);
  return `${head.slice(0, Math.max(head.lastIndexOf(" "), most - 18)).trimEnd()}…`;
}

/** The same without its middle: children begin with their parent's idea and end with what they changed. */
function cutMiddle(text, most) {
  if (text.length <= most) return text;
  const end = text.slice(-Math.floor((2 * most) / 3));
  return `${cut(text, most - end.length)}${end.slice(end.indexOf(" ") + 1)}`;
}

/** A table with a caption for those who do not see it; columns are {heading, right, cell(row) → text or node}. */
function table(caption, columns, rows) {
  const align = (column) => (column.right ? "number" : null);
  const cell = (column, row) => {
    const value = column.cell(row);
    return el("td", { class: align(column) }, value === null || value === undefined ? NONE : value);
  };
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el(
      "table",
      {},
      el("caption", { class: "unseen", text: caption }),
      el("thead", {}, el("tr", {}, columns.map((c) => el("th", { scope: "col", class: align(c), text: c.heading })))),
      el("tbody", {}, rows.map((row) => el("tr", {}, columns.map((column) => cell(column, row))))),
    ),
  );
}

/** A section with a heading; `wide` spans the page. */
function card(title, note, ...content) {
  return el("section", { class: "card" }, el("h2", { text: title }), note ? el("p", { class: "note" }, note) : null, ...content);
}

function wide(section) {
  section.classList.add("wide");
  return section;
}

const emptiness = (text) => el("p", { class: "empty", text });

/** A line of key figures. */
function tiles(figures) {
  return el(
    "dl",
    { class: "tiles" },
    figures.map(([value, label]) => el("div", {}, el("dt", {}, label), el("dd", {}, value))),
  );
}

/** Pairs of a name and a value. */
const facts = (pairs) => el("dl", { class: "facts" }, pairs.map(([name, value]) => [el("dt", { text: name }), el("dd", {}, value)]));
