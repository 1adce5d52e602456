"use strict";
// The engine of every page with a list: elements and words, the before/after slider, chunks of data, a list that is
// searched, filtered, sorted and paged as pictures or as a table, and the dialog of one row. A page's own script gives
// columns, cards and words and calls begin(). Everything from the archive reaches the document as text, never as markup.
const MISSING = "not measured";
const CARDS = 24, ROWS = 50, CHUNKS_KEPT = 6;
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);

function el(tag, options, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const measured = (text) => text === MISSING ? el("span", { class: "missing" }, text) : text;
const count = (n) => n === null ? MISSING : n.toLocaleString("en");
const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
function number(v) {
  if (v === null || v === undefined) return MISSING;
  const size = Math.abs(v);
  const text = size >= 1000 ? Math.round(v).toLocaleString("en") : v.toFixed(size >= 10 ? 1 : size >= 1 ? 2 : 3);
  return text.replace("-", "−");
}
function duration(s) {
  if (s === null || s === undefined) return MISSING;
  return s < 1 ? `${Math.round(s * 1000)} ms` : s < 90 ? `${s.toFixed(1)} s` : `${Math.round(s / 60)} min`;
}

// Characters that would hide or turn text around in a name are shown by their number.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const shown = (text) => el("bdi", {}, text.replace(INVISIBLE, (c) =>
  `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`));

function split(path) {
  const cut = path.lastIndexOf("/");
  return [path.slice(0, cut + 1), path.slice(cut + 1)];
}
// Ledger names hold '%XX' for bytes that are not UTF-8 (and for '%'); in an address they stay as they are.
const address = (folder, path) => folder + path.split("/").map((part) =>
  encodeURIComponent(part).replace(/%25/g, "%")).join("/");

/* ---- before and after ---- */
// A side is an address, or a function that makes the picture (where several lie side by side in one file).
const picture = (side, alt) => typeof side === "function" ? side(alt)
  : el("img", { src: side, alt, draggable: "false" });
function compare([label, width, height, before, after], name, words = ["before", "after"]) {
  const box = el("div", { class: "compare",
    style: `--ratio:${width / height};--natural:${width}px;aspect-ratio:${width}/${height}` });
  if (!after) {
    box.append(picture(before, `${name}, ${label}`), el("span", { class: "side was" }, "left as it was"));
    return box;
  }
  const slider = el("input", { type: "range", min: 0, max: 100, value: 50, step: 1,
    "aria-label": `${words.join(" and ").replace(/^./, (c) => c.toUpperCase())} of ${name}, ${label}` });
  const was = el("span", { class: "side was", "aria-hidden": "true" }, words[0]);
  const is = el("span", { class: "side is", "aria-hidden": "true" }, words[1]);
  const move = () => {
    const at = Number(slider.value);
    box.style.setProperty("--at", `${at}%`);
    slider.setAttribute("aria-valuetext", `${at} per cent ${words[0]}, ${100 - at} per cent ${words[1]}`);
    was.style.opacity = at < 15 ? 0 : 1;
    is.style.opacity = at > 85 ? 0 : 1;
  };
  const drag = (event) => {
    const frame = box.getBoundingClientRect();
    slider.value = Math.round((event.clientX - frame.left) / frame.width * 100);
    move();
  };
  slider.addEventListener("input", move);
  box.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse") return; // a finger may only be scrolling past
    box.setPointerCapture(event.pointerId);
    drag(event);
  });
  box.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  box.addEventListener("pointerup", drag);
  box.append(picture(after, ""), picture(before, ""), el("span", { class: "edge" }), was, is, slider);
  move();
  return box;
}

/* ---- chunks: scripts that hand their data over, since a page on disk may not fetch ---- */
const waiting = new Map(), chunks = new Map();
function take(name, value) {
  const settle = waiting.get(name);
  waiting.delete(name);
  if (settle) settle(value);
}
function load(name) {
  if (chunks.has(name)) return chunks.get(name);
  const promise = new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const script = el("script", { src: `data/${name}.js?v=${data.stamp}` });
    script.onload = () => script.remove();
    script.onerror = () => {
      chunks.delete(name);
      reject(new Error(`report/data/${name}.js is not there; write the report anew`));
    };
    document.head.append(script);
  });
  chunks.set(name, promise);
  if (chunks.size > CHUNKS_KEPT) chunks.delete(chunks.keys().next().value);
  return promise;
}
const details = async (index) =>
  (await load(`details-${String(Math.floor(index / data.chunk)).padStart(4, "0")}`))[index % data.chunk];

/* ---- the list ---- */
// What a page gives: one, many (words for a row); filters {id: (index, wanted) => true to keep}; fill() their options;
// cells [{title, cell(index), column}] of the table; card(index); title(index) and sheet(index, told) of one row;
// first(a, b) the order as listed; pictured(index) where the pictures are a part of the list.
let page = null, rows = null, current = [];
const COLUMNS = data.columns.map(([name, title, better, kind, of]) => ({ name, title, better, kind, of }));
const state = { query: "", order: data.order || "", view: data.pictures ? "pictures" : "list", page: 0 };
const WORDS = { // worst, best
  metric: ["worst first", "best first"], difference: ["largest loss first", "largest gain first"],
  time: ["slowest first", "fastest first"], amount: ["largest first", "smallest first"],
};

const value = (index, name) => {
  const v = rows.values[name][index];
  return Number.isNaN(v) ? null : v;
};
const failing = (error) => { $("found-note").textContent = error.message; };
const byPath = (a, b) => rows.path[a] < rows.path[b] ? -1 : rows.path[a] > rows.path[b] ? 1 : a - b;

// "clipiqa" → ascending, "-clipiqa" → descending; what was not measured comes last
const orderOf = (text) => text.startsWith("-") ? [text.slice(1), -1] : [text, 1];
function order() {
  if (state.order === "") return page.first;
  if (state.order === "path") return byPath;
  const [name, sign] = orderOf(state.order), values = rows.values[name];
  const last = (v) => Number.isNaN(v) ? Infinity : v * sign;
  return (a, b) => last(values[a]) - last(values[b]) || a - b;
}
function orders() {
  const best = (c) => c.better === "higher" ? `-${c.name}` : c.name;
  const worst = (c) => c.better === "higher" ? c.name : `-${c.name}`;
  return [["", page.listed], ["path", "path"], ...COLUMNS.flatMap((c) =>
    [[worst(c), `${c.title}: ${WORDS[c.kind][0]}`], [best(c), `${c.title}: ${WORDS[c.kind][1]}`]])];
}
function arranged() {
  const filters = Object.entries(page.filters).filter(([id]) => state[id] !== "");
  const keep = (index) => (!state.query || rows.search[index].includes(state.query))
    && filters.every(([id, test]) => test(index, state[id]))
    && (state.view === "list" || !page.pictured || page.pictured(index));
  return rows.path.map((_, index) => index).filter(keep).sort(order());
}
function set(change) {
  Object.assign(state, { page: 0 }, change);
  current = arranged();
  render();
}
function choose(id, wanted) {
  if ($(id).tagName === "SELECT") $(id).value = wanted;
  else for (const chip of $(id).children) chip.setAttribute("aria-pressed", chip.dataset.value === wanted);
  set({ [id]: wanted });
}
function turn(number) {
  state.page = number;
  render();
  $("list-title").focus();
}

const nameButton = (index, text) =>
  el("button", { type: "button", class: "name", onclick: () => show(index) }, shown(text));
function pager(number, pages, go) {
  const step = (by, text) => el("button", { type: "button", class: "plain",
    disabled: number + by < 0 || number + by >= pages, onclick: () => go(number + by) }, text);
  const jump = (event) => go(Math.min(Math.max(Math.round(event.target.valueAsNumber) || 1, 1), pages) - 1);
  return el("nav", { class: "pager", "aria-label": "Pages" }, step(-1, "Earlier"), step(1, "Later"),
    pages < 5 ? el("span", {}, `page ${number + 1} of ${pages}`) : el("label", { class: "jump" }, "page",
      el("input", { type: "number", min: 1, max: pages, value: number + 1, onchange: jump }), `of ${count(pages)}`));
}
function sorter(c) {
  const [name, sign] = orderOf(state.order);
  return [{ "aria-sort": c === name ? (sign > 0 ? "ascending" : "descending") : null },
    (title) => el("button", { type: "button", class: "sorter", id: `sort-${c}`, onclick: () => {
      choose("order", c === name && sign < 0 ? c : `-${c}`);
      $(`sort-${c}`).focus();
    } }, title)];
}
function table(found, caption, sorted) {
  const head = ({ title, column, plain }) => {
    const [told, button] = column && sorted ? sorter(column) : [{}, (text) => text];
    return el("th", { scope: "col", class: plain ? null : "n", ...told }, button(title));
  };
  const row = (index) => el("tr", {}, page.cells.map(({ cell, plain, title }) =>
    el("td", { class: plain ? null : "n", "data-title": title }, cell(index))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { class: "list" }, el("caption", { class: "ear" }, caption),
      el("thead", {}, el("tr", {}, page.cells.map(head))), el("tbody", {}, found.map(row))));
}
function nothing() {
  const clear = () => {
    for (const id of Object.keys(page.filters)) choose(id, "");
    $("query").value = "";
    set({ query: "" });
    $("query").focus();
  };
  const elsewhere = state.view === "pictures" && page.pictured;
  const button = (text, act) => el("p", {}, el("button", { type: "button", class: "plain", onclick: act }, text));
  return el("div", { class: "empty" },
    el("p", { class: "empty-title" }, elsewhere ? "No pictures here." : `No ${page.one} matches.`),
    elsewhere ? button("Show the list", () => set({ view: "list" })) : rows.path.length ? button("Clear the filters", clear) : "");
}
function render() {
  const size = state.view === "list" ? ROWS : CARDS, pages = Math.ceil(current.length / size);
  const from = state.page * size, found = current.slice(from, from + size);
  const many = state.view === "pictures" && page.pictured ? ["picture", "pictures"] : [page.one, page.many];
  $("as-pictures").setAttribute("aria-pressed", state.view === "pictures");
  $("as-list").setAttribute("aria-pressed", state.view === "list");
  $("found-note").textContent = current.length
    ? `${count(from + 1)} to ${count(from + found.length)} of ${plural(current.length, ...many)}` : "";
  $("results").replaceChildren(...(current.length ? [
    state.view === "list" ? table(found, `The ${page.many} as a table; a column’s button sorts by it`, true)
      : el("ul", { class: "grid", role: "list" }, found.map((index) => el("li", {}, el("article", { class: "card" }, page.card(index))))),
    pages > 1 ? pager(state.page, pages, turn) : ""] : [nothing()]));
}
function options(id, pairs) {
  $(id).append(...pairs.map(([key, text]) => el("option", { value: key }, text)));
  $(id).parentNode.hidden = pairs.length < 2;
}
function chips(id, entries) {
  $(id).append(...entries.map(([key, text, n, look]) => el("button", { type: "button", class: `chip ${look}`,
    "data-value": key, "aria-pressed": String(key === ""), onclick: () => choose(id, state[id] === key ? "" : key) },
  text, el("span", {}, count(n)))));
  $(id).hidden = false;
}
function controls() {
  for (const id of Object.keys(page.filters)) state[id] = "";
  options("order", orders());
  $("order").value = state.order;
  page.fill();
  let pause;
  $("query").addEventListener("input", (e) => {
    clearTimeout(pause);
    pause = setTimeout(() => set({ query: e.target.value.trim().toLowerCase() }), 120);
  });
  for (const select of document.querySelectorAll("#order, [data-filter]")) {
    select.addEventListener("change", () => choose(select.id, select.value));
  }
  $("views").hidden = !data.pictures;
  $("as-pictures").addEventListener("click", () => set({ view: "pictures" }));
  $("as-list").addEventListener("click", () => set({ view: "list" }));
  $("controls").addEventListener("submit", (e) => e.preventDefault());
}

/* ---- one row ---- */
// Buttons of which one is pressed; `entries` are [text, what is handed to pick].
function tabs(label, entries, pick, pressed = 0) {
  const buttons = entries.map(([text], n) =>
    el("button", { type: "button", class: "chip all", onclick: () => press(n) }, text));
  const press = (n) => {
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", k === n));
    pick(entries[n][1]);
  };
  press(pressed);
  return el("div", { class: "tabs", role: "group", "aria-label": label, hidden: entries.length < 2 }, buttons);
}
// A frame whose picture can be enlarged, and the buttons that do it.
function zoomed(frame) {
  for (const [name, text] of Object.entries({ "data-zoom": "1", tabindex: "0", role: "region", "aria-label": "Picture; scrolls when enlarged" })) {
    frame.setAttribute(name, text);
  }
  return tabs("Enlargement", [["fit", 1], ["2×", 2], ["4×", 4]], (zoom) => {
    frame.dataset.zoom = zoom;
    frame.style.setProperty("--zoom", zoom);
    if (zoom > 1) frame.scrollTo((frame.scrollWidth - frame.clientWidth) / 2, (frame.scrollHeight - frame.clientHeight) / 2);
  });
}
const factList = (pairs) => el("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, text]) =>
  [el("dt", {}, name), el("dd", {}, typeof text === "string" ? measured(text) : text)]));
function numbers(caption, head, lines) {
  const line = ([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name),
    cells.map((cell) => el("td", { class: "n" }, typeof cell === "string" ? measured(cell) : cell)));
  return el("table", {}, el("caption", { class: "ear" }, caption), el("thead", {}, el("tr", {}, head.map((h, n) =>
    el("th", { scope: "col", class: n ? "n" : null }, h)))), el("tbody", {}, lines.map(line)));
}
function plain(v) {
  if (v === null || typeof v !== "object") return typeof v === "number" ? number(v) : String(v);
  return Array.isArray(v) ? v.map(plain).join(", ") : Object.entries(v).map(([k, each]) => `${k} ${plain(each)}`).join(", ");
}
function stepTable(steps) {
  const row = ([stage, result, reason, ms, attempt, decision]) => {
    const facts = Object.entries(decision).map(([k, v]) => `${k.replaceAll("_", " ")}: ${plain(v)}`).join(" · ");
    return el("tr", {}, el("th", { scope: "row" }, stage),
      el("td", {}, reason, attempt > 1 ? ` (try ${attempt})` : "", facts ? el("div", { class: "decision" }, facts) : null),
      el("td", { class: "n" }, result === "skipped" && !ms ? "" : measured(duration(ms === null ? null : ms / 1000))));
  };
  return el("table", {}, el("caption", { class: "ear" }, "What every stage did"), el("thead", {}, el("tr", {},
    el("th", { scope: "col" }, "Stage"), el("th", { scope: "col" }, "What happened"), el("th", { scope: "col", class: "n" }, "Time"))),
  el("tbody", {}, steps.map(row)));
}
const tag = (outcome) => el("span", { class: `tag ${data.outcomes[outcome][0]}` }, data.outcomes[outcome][1]);

let asked = null;
async function show(index) {
  const dialog = $("detail"), at = current.indexOf(index);
  asked = index;
  let told;
  try {
    told = await details(index);
  } catch (error) {
    failing(error);
    return;
  }
  if (asked !== index) return; // another one was asked for meanwhile
  const go = (by, text, label) => el("button", { type: "button", class: "plain", "aria-label": label, "data-by": by,
    disabled: at < 0 || current[at + by] === undefined, onclick: () => show(current[at + by]) }, text);
  dialog.replaceChildren(el("div", { class: "sheet" },
    el("header", {}, el("h2", { id: "detail-title", tabindex: "-1" }, shown(page.title(index))),
      el("div", {}, go(-1, "‹", `Earlier ${page.one}`), go(1, "›", `Later ${page.one}`),
        el("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Close"))),
    page.sheet(index, told)));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  $("detail-title").focus();
  history.replaceState(null, "", `#${page.one}-${index}`);
}
$("detail").addEventListener("close", () => {
  asked = null;
  $("detail").replaceChildren();
  history.replaceState(null, "", "#list");
});
$("detail").addEventListener("click", (e) => { if (e.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("keydown", (e) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (!by || e.target.matches("input, .stand, .strip")) return;
  const button = $("detail").querySelector(`[data-by="${by}"]`);
  if (button && !button.disabled) button.click();
});

async function receive() {
  rows = await load("rows");
  chunks.delete("rows"); // what was received is kept; the message it came in need not be
  for (const [name, values] of Object.entries(rows.values)) rows.values[name] = Float64Array.from(values, (v) => v ?? NaN);
  rows.search = rows.path.map((path) => path.toLowerCase());
}
// Loads the rows and draws the list, after the first paint.
function begin(given) {
  page = given;
  const start = async () => {
    await receive();
    page.received();
    controls();
    set({});
    const wanted = new RegExp(`^#${page.one}-(\\d+)$`).exec(location.hash);
    if (wanted && Number(wanted[1]) < rows.path.length) show(Number(wanted[1]));
  };
  requestAnimationFrame(() => setTimeout(() => start().catch(failing)));
}
