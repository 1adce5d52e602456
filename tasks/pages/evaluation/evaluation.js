// The behaviour of an evaluation's page; report_shared.js comes before it. Faces and their details come in chunks.
const data = JSON.parse($("data").textContent);
const CARDS = 24, ROWS = 50, CHUNKS_KEPT = 6;
const COLUMNS = data.columns.map(([name, title, better, kind, of]) => ({ name, title, better, kind, of }));
const METRICS = COLUMNS.filter((c) => c.kind === "metric");
const KEYS = data.outcomes.map((o) => o[0]), LABELS = data.outcomes.map((o) => o[1]);
const FAILED = "identity failure";
let faces = null, current = [];

/* ---- chunks: scripts that hand their data over, since a page on disk may not fetch ---- */
const waiting = new Map(), chunks = new Map();
function take(name, value) {
  const settle = waiting.get(name);
  waiting.delete(name);
  if (settle) settle.resolve(value);
}
function load(name) {
  if (chunks.has(name)) return chunks.get(name);
  const promise = new Promise((resolve, reject) => {
    waiting.set(name, { resolve });
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
async function details(index) {
  const rows = await load(`details-${String(Math.floor(index / data.chunk)).padStart(4, "0")}`);
  const [problem, input, truth, restored_sha, input_sha, truth_sha, pair, picture, strip, stages, steps] =
    rows[index % data.chunk];
  return { problem, input, truth, restored_sha, input_sha, truth_sha, pair, picture, strip, stages, steps };
}

/* ---- what is known of a face ---- */
const value = (index, name) => {
  const v = faces.values[name][index];
  return Number.isNaN(v) ? null : v;
};
const faceName = (index) => {
  const name = split(faces.path[index])[1];
  return faces.many.has(faces.path[index]) && faces.face[index] >= 0 ? `${name}, face ${faces.face[index] + 1}` : name;
};
const problemWords = (code) => data.problems[code] || code.replaceAll("_", " ");
function receive(columns) {
  for (const c of COLUMNS) columns.values[c.name] = Float64Array.from(columns.values[c.name], (v) => v ?? NaN);
  const seen = new Set();
  columns.many = new Set();
  for (const path of columns.path) (seen.has(path) ? columns.many : seen).add(path);
  columns.search = columns.path.map((path) => path.toLowerCase());
  faces = columns;
}

/* ---- order and filters ---- */
const state = { order: "", query: "", subset: "", show: "", view: "pictures", page: 0 };
// "clipiqa" → ascending, "-clipiqa" → descending
const orderOf = (text) => text.startsWith("-") ? [text.slice(1), -1] : [text, 1];
function orders() {
  const options = [["", "as in the file"]];
  for (const c of COLUMNS) {
    const [best, worst] = c.better === "higher" ? [`-${c.name}`, c.name] : [c.name, `-${c.name}`];
    const words = c.kind === "difference" ? ["largest loss first", "largest gain first"] : ["worst first", "best first"];
    options.push([worst, `${c.title}: ${words[0]}`], [best, `${c.title}: ${words[1]}`]);
  }
  return options;
}
function matches(index) {
  if (state.query && !faces.search[index].includes(state.query)) return false;
  if (state.subset !== "" && faces.subset[index] !== Number(state.subset)) return false;
  if (state.show === "") return true;
  if (state.show === "measured") return !faces.problem[index];
  if (state.show === FAILED) return faces.failed[index] === 1;
  return faces.problem[index] === state.show;
}
function arranged() {
  const found = [];
  for (let index = 0; index < faces.path.length; index += 1) if (matches(index)) found.push(index);
  if (!state.order) return found;
  const [name, sign] = orderOf(state.order), values = faces.values[name];
  const last = (v) => Number.isNaN(v) ? Infinity : v * sign;
  return found.sort((a, b) => last(values[a]) - last(values[b]) || a - b);
}
function set(change) {
  Object.assign(state, { page: 0 }, change);
  current = arranged();
  render();
}

/* ---- cards and rows ---- */
const side = (src, n, of) => (alt) =>
  el("img", { src, alt, class: "panel", style: `--n:${n};--of:${of}`, loading: "lazy", decoding: "async", draggable: "false" });
const PANELS = ["input", "result", "truth"];
function view(index, from, to, large, label) {
  const size = large ? data.sides.large : data.sides.small, of = faces.panels[index];
  const src = `pictures/${faces.picture[index]}${large ? "-large" : ""}.jpg`;
  return compare([label, size, size, side(src, from, of), side(src, to, of)], faceName(index), [PANELS[from], PANELS[to]]);
}
const nameButton = (index, text) =>
  el("button", { type: "button", class: "name", onclick: () => show(index) }, shown(text));
const low = (index, column, text) => column.name === "identity" && faces.failed[index] === 1
  ? el("span", { class: "low" }, text, " ", el("span", { class: "ear" }, "below its threshold")) : text;
function scoreLine(index, column) {
  const title = column.of === "identity" ? "identity" : column.title; // there is no room for its title
  return el("p", { class: "line" }, el("span", {}, title), el("span", {}, low(index, column,
    measured(number(value(index, column.name))))));
}
function card(index) {
  const problem = faces.problem[index], sorted = COLUMNS.find((c) => c.name === orderOf(state.order)[0]);
  const columns = [...new Set([sorted, METRICS.find((c) => c.name.startsWith("identity")), ...METRICS])].filter(Boolean);
  const mat = el("div", { class: "mat" }, faces.picture[index] ? view(index, 0, 1, false, "small view")
    : el("p", { class: "note" }, problem ? problemWords(problem) : data.pictures ? "no picture" : "written without pictures"));
  return el("li", {}, el("article", { class: "card" }, mat, el("h3", {}, nameButton(index, faceName(index))),
    el("p", { class: "folder" }, shown(split(faces.path[index])[0])),
    problem ? null : columns.slice(0, 3).map((column) => scoreLine(index, column))));
}
function listed(page) {
  const [name, sign] = orderOf(state.order);
  const sorter = (c) => el("th", { scope: "col", class: "n",
    "aria-sort": c.name === name ? (sign > 0 ? "ascending" : "descending") : null },
  el("button", { type: "button", class: "sorter", id: `sort-${c.name}`, onclick: () => {
    choose("order", c.name === name && sign < 0 ? c.name : `-${c.name}`);
    $(`sort-${c.name}`).focus();
  } }, c.title));
  const cell = (index, c) => el("td", { class: "n" },
    faces.problem[index] ? "" : low(index, c, measured(number(value(index, c.name)))));
  const row = (index) => el("tr", {}, el("td", {}, nameButton(index, faces.path[index]),
    faces.many.has(faces.path[index]) && faces.face[index] >= 0 ? ` face ${faces.face[index] + 1}` : "",
    faces.problem[index] ? el("div", { class: "decision" }, problemWords(faces.problem[index])) : null),
  el("td", {}, shown(data.subsets[faces.subset[index]])), COLUMNS.map((c) => cell(index, c)));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The faces as a table" },
    el("table", { class: "faces" }, el("caption", { class: "ear" }, "Faces that match; a column’s button sorts by it"),
      el("thead", {}, el("tr", {}, ["File", "Subset"].map((h) => el("th", { scope: "col" }, h)), COLUMNS.map(sorter))),
      el("tbody", {}, page.map(row))));
}
function render() {
  const size = state.view === "list" ? ROWS : CARDS, pages = Math.ceil(current.length / size);
  const from = state.page * size, page = current.slice(from, from + size);
  $("as-pictures").setAttribute("aria-pressed", state.view === "pictures");
  $("as-list").setAttribute("aria-pressed", state.view === "list");
  $("found-note").textContent = current.length
    ? `${count(from + 1)} to ${count(from + page.length)} of ${plural(current.length, "face", "faces")}` : "";
  $("results").replaceChildren(...(current.length ? [
    state.view === "list" ? listed(page) : el("ul", { class: "grid", role: "list" }, page.map(card)),
    pages > 1 ? pager(state.page, pages, turn) : ""] : [nothing()]));
}
function turn(page) {
  state.page = page;
  render();
  $("faces-title").focus();
}
function nothing() {
  const clear = el("button", { type: "button", class: "plain", onclick: () => {
    for (const id of ["query", "subset", "problem"]) $(id).value = "";
    set({ query: "", subset: "", show: "" });
    $("query").focus();
  } }, "Clear the filters");
  return el("div", { class: "empty" }, el("p", { class: "empty-title" }, "No face matches."),
    data.listed ? el("p", {}, clear) : "");
}
function choose(id, wanted) {
  $(id).value = wanted;
  set({ [id === "problem" ? "show" : id]: wanted });
}
function controls() {
  const tally = (test) => faces.path.reduce((n, _, index) => n + test(index), 0);
  const options = (id, pairs) => $(id).append(...pairs.map(([key, text]) => el("option", { value: key }, text)));
  options("order", orders());
  options("subset", [["", "all"], ...data.subsets.map((name, n) => [n, name || "no subset"])]);
  $("subset-field").hidden = data.subsets.length < 2;
  const shows = [["", `everything (${count(faces.path.length)})`]];
  const failed = tally((index) => faces.failed[index] === 1);
  if (data.judged) shows.push([FAILED, `identity failures (${count(failed)})`]);
  if (Object.keys(data.problems).length) shows.push(["measured", `measured (${count(tally((index) => !faces.problem[index]))})`]);
  for (const code of Object.keys(data.problems)) {
    shows.push([code, `${code.replaceAll("_", " ")} (${count(tally((index) => faces.problem[index] === code))})`]);
  }
  options("problem", shows);
  let pause;
  $("query").addEventListener("input", (e) => {
    clearTimeout(pause);
    pause = setTimeout(() => set({ query: e.target.value.trim().toLowerCase() }), 120);
  });
  for (const id of ["order", "subset", "problem"]) $(id).addEventListener("change", (e) => choose(id, e.target.value));
  $("as-pictures").addEventListener("click", () => set({ view: "pictures" }));
  $("as-list").addEventListener("click", () => set({ view: "list" }));
  $("controls").addEventListener("submit", (e) => e.preventDefault());
  for (const link of document.querySelectorAll("[data-problem]")) {
    link.addEventListener("click", () => choose("problem", link.dataset.problem));
  }
}

/* ---- one face ---- */
function stand(index) {
  if (!faces.picture[index]) return [];
  const large = faces.large[index] === 1, truth = faces.panels[index] > 2;
  const pairs = truth ? [[0, 1], [1, 2], [0, 2]] : [[0, 1]];
  const frame = el("div", { class: "stand", "data-zoom": "1", tabindex: "0", role: "region",
    "aria-label": "Picture; scrolls when enlarged" });
  const group = (label, entries, pick) => {
    const buttons = entries.map(([text], n) =>
      el("button", { type: "button", class: "chip all", onclick: () => press(n) }, text));
    const press = (n) => {
      buttons.forEach((button, k) => button.setAttribute("aria-pressed", k === n));
      pick(entries[n][1]);
    };
    press(0);
    return el("div", { class: "tabs", role: "group", "aria-label": label }, buttons);
  };
  const pairsOf = group("What is compared", pairs.map(([a, b]) => [`${PANELS[a]} and ${PANELS[b]}`, [a, b]]),
    ([a, b]) => frame.replaceChildren(view(index, a, b, large, large ? "large view" : "small view")));
  const zooms = group("Enlargement", [["fit", 1], ["2×", 2], ["4×", 4]], (zoom) => {
    frame.dataset.zoom = zoom;
    frame.style.setProperty("--zoom", zoom);
    if (zoom > 1) frame.scrollTo((frame.scrollWidth - frame.clientWidth) / 2, (frame.scrollHeight - frame.clientHeight) / 2);
  });
  return [el("div", { class: "tools" }, pairs.length > 1 ? pairsOf : null, zooms), frame,
    large ? null : el("p", { class: "note" }, "Of this face the page has the small view only.")];
}
function strip(told) {
  const heading = el("h3", {}, "Stage by stage");
  if (!told.strip) {
    const why = !data.ledger ? "the ledger of the restoring run is not known"
      : !data.pictures ? "this page was written without pictures"
      : "the intermediates of this face were not kept, or the page has no room for them";
    return [heading, el("p", { class: "note" }, `No pictures of the stages: ${why}.`)];
  }
  const of = told.stages.length;
  const panel = (stage, n) => el("li", {}, el("img", { src: `pictures/${told.strip}`, alt: `after ${stage}`, loading: "lazy",
    style: `--n:${n};--of:${Math.max(of, 2)}` }), stage === "detect_align" ? `${stage} (the input)` : stage);
  return [heading, el("ol", { class: "strip", tabindex: "0", "aria-label": "What each stage made of the face" },
    told.stages.map(panel))];
}
function scores(index) {
  const gains = new Map(COLUMNS.filter((c) => c.kind === "difference").map((c) => [c.of, value(index, c.name)]));
  const row = (c) => {
    const v = value(index, c.name), gain = gains.get(c.name) ?? null;
    return el("tr", {}, el("th", { scope: "row" }, c.title),
      gains.size ? el("td", { class: "n" }, gain === null ? "" : number(v - gain)) : null,
      el("td", { class: "n" }, low(index, c, measured(number(v)))),
      gains.size ? el("td", { class: "n" }, gain === null ? "" : number(gain)) : null);
  };
  const head = gains.size ? ["Metric", "Input", "Result", "Difference"] : ["Metric", "Result"];
  return el("table", {}, el("caption", { class: "ear" }, "Scores of this face"),
    el("thead", {}, el("tr", {}, head.map((h, n) => el("th", { scope: "col", class: n ? "n" : null }, h)))),
    el("tbody", {}, METRICS.map(row)));
}
function facts(index, told) {
  const link = (tree, path) => data.trees && data.trees[tree]
    ? el("a", { href: address(data.trees[tree], path) }, shown(path)) : shown(path);
  const pairs = [["Restored", link("restored", faces.path[index])], ["Input", told.input ? link("input", told.input) : "none found"],
    told.truth ? ["Truth", link("truth", told.truth)] : null,
    faces.many.has(faces.path[index]) ? ["Face", count(faces.face[index] + 1)] : null,
    data.subsets[faces.subset[index]] ? ["Subset", shown(data.subsets[faces.subset[index]])] : null,
    faces.problem[index] ? ["Not measured", told.problem || problemWords(faces.problem[index])] : null,
    told.picture ? ["No picture", told.picture] : null,
    ["Content", [["restored", told.restored_sha], ["input", told.input_sha], ["truth", told.truth_sha]].filter((pair) => pair[1])
      .map(([name, sha]) => el("div", {}, `${name} `, el("code", { class: "hash" }, sha)))]];
  return el("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}
function steps(told) {
  const block = ([face, outcome, , rows]) => el("details", { open: face >= 0 },
    el("summary", {}, el("b", {}, face < 0 ? "The picture as a whole " : "What the stages did to it "),
      el("span", { class: `tag ${KEYS[outcome]}` }, LABELS[outcome])), stepTable(rows));
  return told.steps.map(block);
}
let asked = null;
async function show(index) {
  const dialog = $("detail"), at = current.indexOf(index);
  asked = index;
  let told;
  try {
    told = await details(index);
  } catch (error) {
    $("found-note").textContent = error.message;
    return;
  }
  if (asked !== index) return; // another one was asked for meanwhile
  const go = (by, text, label) => el("button", { type: "button", class: "plain", "aria-label": label, "data-by": by,
    disabled: at < 0 || current[at + by] === undefined, onclick: () => show(current[at + by]) }, text);
  dialog.replaceChildren(el("div", { class: "sheet" },
    el("header", {}, el("h2", { id: "detail-title", tabindex: "-1" }, shown(faceName(index))),
      el("div", {}, go(-1, "‹", "Earlier face"), go(1, "›", "Later face"),
        el("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Close"))),
    stand(index), faces.problem[index] ? null : [strip(told), el("h3", {}, "Scores"), scores(index)],
    el("h3", {}, "Files"), facts(index, told), steps(told)));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  $("detail-title").focus();
  history.replaceState(null, "", `#face-${index}`);
}
$("detail").addEventListener("close", () => {
  asked = null;
  $("detail").replaceChildren();
  history.replaceState(null, "", "#faces");
});
$("detail").addEventListener("click", (e) => { if (e.target === $("detail")) $("detail").close(); });
$("detail").addEventListener("keydown", (e) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (!by || e.target.matches("input, .stand, .strip")) return;
  const button = $("detail").querySelector(`[data-by="${by}"]`);
  if (button && !button.disabled) button.click();
});

async function start() {
  try {
    receive(await load("faces"));
  } catch (error) {
    $("found-note").textContent = error.message;
    return;
  }
  chunks.delete("faces"); // what was received is kept; the message it came in need not be
  controls();
  set({});
  const wanted = /^#face-(\d+)$/.exec(location.hash);
  if (wanted && Number(wanted[1]) < faces.path.length) show(Number(wanted[1]));
}
requestAnimationFrame(() => setTimeout(start)); // after the first paint
