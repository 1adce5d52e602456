// The behaviour of a run's page; report_shared.js comes before it.
const data = JSON.parse(document.getElementById("data").textContent);
const CARDS = 24, ROWS = 50;
const FIELDS = ["path", "outcome", "code", "reason", "faces", "before", "after", "identity", "seconds", "format",
  "width", "height", "bytes", "chosen", "id"];
const files = data.files.map((row, index) =>
  Object.assign(Object.fromEntries(FIELDS.map((name, n) => [name, row[n]])), { index }));
const KEYS = data.outcomes.map((o) => o[0]), LABELS = data.outcomes.map((o) => o[1]);
const TROUBLES = ["failed", "quarantined", "rejected_identity"];
const weight = (b) => b === null ? MISSING : b < 1e6 ? `${Math.ceil(b / 1e3)} kB` : `${(b / 1e6).toFixed(1)} MB`;
const scored = (f) => f.before === null && f.after === null ? MISSING : `${number(f.before)} → ${number(f.after)}`;
const sentence = (f) => f.reason || (f.code === "ok" ? "" : (data.reasons[f.code] || [0, ""])[1] || f.code);
const tag = (outcome) => el("span", { class: `tag ${KEYS[outcome]}` }, LABELS[outcome]);
const gain = (f) => f.before === null || f.after === null ? null
  : (f.after - f.before) * (data.measure && !data.measure.higher_is_better ? -1 : 1);

/* ---- cards and rows ---- */
function nameButton(f, text) {
  return el("button", { type: "button", class: "name", onclick: () => show(f.index) }, shown(text));
}
function card(f) {
  const [folder, name] = split(f.path), pictures = data.pictures[f.index];
  const view = pictures.views[0];
  const mat = el("div", { class: "mat" }, view ? compare(view, name)
    : el("p", { class: "note" }, `No picture: ${pictures.problem || "no room left in this page"}`));
  return el("article", { class: "card" }, mat,
    el("h3", {}, nameButton(f, name)), el("p", { class: "folder" }, shown(folder)),
    el("p", { class: "line" }, tag(f.outcome), el("span", {}, view && view[0].startsWith("face")
      ? `${view[0]} of ${count(f.faces)}` : plural(f.faces ?? 0, "face", "faces"))),
    data.measure && f.faces ? el("p", { class: "line" }, `${data.measure.title} `, measured(scored(f))) : null);
}
function row(f) {
  return el("tr", {}, el("td", {}, nameButton(f, f.path)), el("td", {}, tag(f.outcome)),
    el("td", {}, sentence(f)), el("td", { class: "n" }, f.faces === null ? "" : plural(f.faces, "face", "faces")),
    el("td", { class: "n" }, data.measure ? measured(scored(f)) : ""));
}
function table(found, page, turn, caption) {
  const head = ["File", "Outcome", "Why", "Faces", data.measure ? data.measure.title : ""];
  const pages = Math.ceil(found.length / ROWS);
  const body = el("table", { class: "list" }, el("caption", { class: "ear" }, caption),
    el("thead", {}, el("tr", {}, head.map((h, n) => el("th", { scope: "col", class: n > 2 ? "n" : null }, h)))),
    el("tbody", {}, found.slice(page * ROWS, (page + 1) * ROWS).map(row)));
  return pages < 2 ? [body] : [body, pager(page, pages, turn)];
}

/* ---- filters ---- */
const ORDERS = {
  shown: ["by outcome", (a, b) => a.outcome - b.outcome || a.index - b.index], path: ["path", (a, b) => a.path < b.path ? -1 : 1],
  gain: ["largest gain first", (a, b) => last(-gain(a), gain(a)) - last(-gain(b), gain(b))],
  loss: ["largest loss first", (a, b) => last(gain(a), gain(a)) - last(gain(b), gain(b))],
  alike: ["least alike first", (a, b) => last(a.identity, a.identity) - last(b.identity, b.identity)],
  slow: ["slowest first", (a, b) => last(-a.seconds, a.seconds) - last(-b.seconds, b.seconds)],
};
const last = (key, value) => value === null ? Number.MAX_VALUE : key;
const state = { outcome: null, reason: "", query: "", order: "shown", view: "pictures", cards: CARDS, page: 0 };
let current = files;

function matches(f) {
  return (state.outcome === null || f.outcome === state.outcome) && (!state.reason || f.code === state.reason)
    && (!state.query || f.path.toLowerCase().includes(state.query));
}
function set(change) {
  Object.assign(state, { cards: CARDS, page: 0 }, change);
  render();
}
function render() {
  const pictures = Object.keys(data.pictures).length > 0;
  const view = pictures ? state.view : "list";
  const all = files.filter(matches);
  const sort = ORDERS[state.order][1];
  current = view === "list" ? all : all.filter((f) => f.index in data.pictures);
  current = [...current].sort(sort);
  for (const chip of $("chips").children) chip.setAttribute("aria-pressed", chip.dataset.outcome === String(state.outcome));
  $("as-pictures").setAttribute("aria-pressed", view === "pictures");
  $("as-list").setAttribute("aria-pressed", view === "list");
  $("as-pictures").parentNode.hidden = !pictures;
  $("found-note").textContent = view === "list" ? plural(all.length, "file", "files")
    : `${plural(current.length, "picture", "pictures")} of ${plural(all.length, "file", "files")}`;
  $("results").replaceChildren(...(current.length ? view === "list" ? listed() : gallery() : [nothing(all)]));
}
function gallery() {
  const grid = el("div", { class: "grid" }, current.slice(0, state.cards).map(card));
  const left = current.length - state.cards;
  if (left <= 0) return [grid];
  const more = () => {
    grid.append(...current.slice(state.cards, state.cards + CARDS).map(card));
    grid.children[state.cards].querySelector(".name").focus({ preventScroll: true });
    state.cards += CARDS;
    if (state.cards >= current.length) button.parentNode.remove();
    else button.textContent = text();
  };
  const text = () => `Show ${Math.min(CARDS, current.length - state.cards)} more`;
  const button = el("button", { type: "button", class: "plain", onclick: more }, text());
  return [grid, el("p", { class: "more" }, button)];
}
function listed() {
  return table(current, state.page, (page) => {
    state.page = page;
    render();
    $("files").scrollIntoView();
  }, "Files that match the filters");
}
function nothing(all) {
  const clear = el("button", { type: "button", class: "plain", onclick: reset }, "Clear the filters");
  const list = el("button", { type: "button", class: "plain", onclick: () => set({ view: "list" }) }, "Show the list");
  const filtered = state.outcome !== null || state.reason || state.query;
  if (all.length) {
    return el("div", { class: "empty" }, el("p", { class: "empty-title" }, "No pictures here."),
      el("p", {}, "These files were not restored, or are not in the sample."), el("p", {}, list));
  }
  return el("div", { class: "empty" }, el("p", { class: "empty-title" }, "No file matches."),
    filtered ? el("p", {}, clear) : "");
}
function reset() {
  $("query").value = "";
  $("reason").value = "";
  set({ outcome: null, reason: "", query: "" });
}
function controls() {
  const chip = (outcome, label, n) => {
    const node = el("button", { type: "button", class: `chip ${outcome === null ? "all" : KEYS[outcome]}`,
      onclick: () => set({ outcome: state.outcome === outcome ? null : outcome }) }, label, el("span", {}, count(n)));
    node.dataset.outcome = String(outcome);
    return node;
  };
  const total = data.outcomes.reduce((sum, o) => sum + o[2], 0);
  $("chips").append(chip(null, "All", total),
    ...data.outcomes.map((o, n) => o[2] ? chip(n, o[1], o[2]) : null).filter(Boolean));
  $("reason").append(el("option", { value: "" }, "any"), ...Object.entries(data.reasons).map(([code, [n]]) =>
    el("option", { value: code }, `${code.replaceAll("_", " ")} (${count(n)})`)));
  $("order").append(...Object.entries(ORDERS).map(([key, [text]]) => el("option", { value: key }, text)));
  $("reason").addEventListener("change", (e) => set({ reason: e.target.value }));
  $("order").addEventListener("change", (e) => set({ order: e.target.value }));
  $("query").addEventListener("input", (e) => set({ query: e.target.value.trim().toLowerCase() }));
  $("as-pictures").addEventListener("click", () => set({ view: "pictures" }));
  $("as-list").addEventListener("click", () => set({ view: "list" }));
  $("controls").addEventListener("submit", (e) => e.preventDefault());
}

/* ---- troubles and extremes ---- */
function troubles(page) {
  const found = files.filter((f) => TROUBLES.includes(KEYS[f.outcome]));
  const parts = data.outcomes.filter((o) => TROUBLES.includes(o[0]) && o[2]).map((o) => `${count(o[2])} ${o[1]}`);
  $("troubles-note").textContent = `${parts.join(", ")}. Nothing of them was lost; the originals are as they were.`;
  $("troubles-list").replaceChildren(...table(found, page, troubles, "Files that need a look"));
}
const RANKINGS = {
  slowest: ["Slowest", (f) => duration(f.seconds)], lost_most: ["Lost most by the score", (f) => number(gain(f))],
  least_alike: ["Least alike", (f) => number(f.identity)],
};
function rankings() {
  for (const [key, [title, value]] of Object.entries(RANKINGS)) {
    const order = data.rankings[key] || [];
    if (!order.length) continue;
    $("extremes").hidden = false;
    $("rankings").append(el("div", { class: "rank" }, el("h3", {}, title), el("ol", {}, order.map((n) =>
      el("li", {}, nameButton(files[n], files[n].path), el("span", {}, value(files[n])))))));
  }
}

/* ---- one file ---- */
const BEFORE = ["input", "aligned"], AFTER = ["final", "restored"];
const OF_PAIR = ["identity", "identity_compact", "change"]; // compare input and result: there is nothing to measure before
function scoreTable(metrics) {
  const rows = new Map(), alone = new Set(); // a name without before or after has only one value
  for (const [name, value] of Object.entries(metrics)) {
    const cut = name.lastIndexOf("."), base = name.slice(0, cut), image = name.slice(cut + 1);
    const side = BEFORE.includes(image) ? 0 : AFTER.includes(image) ? 1 : null;
    const key = side === null ? name : base;
    if (side === null) alone.add(key);
    if (!rows.has(key)) rows.set(key, [null, null]);
    const known = rows.get(key), place = side === null ? 1 : side;
    if (known[place] === null || image === BEFORE[0] || image === AFTER[0]) known[place] = value;
  }
  if (!rows.size) return el("p", { class: "note" }, "Nothing was measured on it.");
  return el("table", {}, el("thead", {}, el("tr", {}, ["Score", "Before", "After"].map((h, n) =>
    el("th", { scope: "col", class: n ? "n" : null }, h)))), el("tbody", {}, [...rows].map(([name, pair]) =>
    el("tr", {}, el("th", { scope: "row" }, name), pair.map((v, side) =>
      el("td", { class: "n" }, side === 0 && (OF_PAIR.includes(name) || alone.has(name)) ? "" : measured(number(v))))))));
}
function faceBlock([face, outcome, metrics, steps], n) {
  if (face < 0) return el("div", {}, el("h3", {}, "The picture as a whole"), stepTable(steps));
  return el("details", { open: n < 2 }, el("summary", {}, el("b", {}, `Face ${face + 1} `), tag(outcome)),
    scoreTable(metrics), el("p", {}), stepTable(steps));
}
function stage(f) {
  const views = (data.pictures[f.index] || { views: [] }).views, name = split(f.path)[1];
  if (!views.length) return [];
  const stand = el("div", { class: "stand" });
  const tabs = views.map((view) => el("button", { type: "button", class: "chip all" }, view[0]));
  const choose = (n) => {
    tabs.forEach((t, k) => t.setAttribute("aria-pressed", k === n));
    stand.replaceChildren(compare(views[n], name));
  };
  tabs.forEach((t, n) => t.addEventListener("click", () => choose(n)));
  choose(views.length > 1 ? views.length - 1 : 0);
  return [views.length > 1 ? el("div", { class: "tabs", role: "group", "aria-label": "View" }, tabs) : null, stand];
}
function facts(f) {
  const kept = ["restored", "fallback", "left_alone", "rejected_identity"].includes(KEYS[f.outcome]);
  const pairs = [["Outcome", el("span", {}, tag(f.outcome), sentence(f) ? ` · ${sentence(f)}` : "")], ["Path", shown(f.path)],
    ["Picture", [f.format, f.width ? `${f.width} × ${f.height}` : null, f.bytes === null ? null : weight(f.bytes)].filter(Boolean).join(", ") || MISSING],
    ["Faces", f.faces === null ? MISSING : count(f.faces)],
    [data.measure ? data.measure.title : "Score", scored(f)], ["Least similarity", number(f.identity)],
    ["Device time", duration(f.seconds)], ["Content", el("code", { class: "hash" }, f.id)],
    ["Weights", el("a", { href: "#recipe", onclick: () => $("detail").close() }, "listed with their hashes")]];
  if (f.chosen && f.chosen !== "everything") pairs.push(["In the sample", f.chosen]);
  if (kept) pairs.splice(1, 0, ["Restored file", el("a", { href: address(data.restored, f.path) }, shown(split(f.path)[1]))]);
  return el("dl", { class: "facts" }, pairs.map(([name, value]) =>
    [el("dt", {}, name), el("dd", {}, typeof value === "string" ? measured(value) : value)]));
}
function show(index) {
  const f = files[index], dialog = $("detail"), at = current.indexOf(f);
  const go = (by, text, label) => el("button", { type: "button", class: "plain", "aria-label": label,
    disabled: at < 0 || !current[at + by], onclick: () => show(current[at + by].index) }, text);
  const details = data.details[index];
  dialog.replaceChildren(el("div", { class: "sheet" },
    el("header", {}, el("h2", { id: "detail-title", tabindex: "-1" }, shown(split(f.path)[1])),
      el("div", {}, go(-1, "‹", "Earlier file"), go(1, "›", "Later file"),
        el("button", { type: "button", class: "plain", onclick: () => dialog.close() }, "Close"))),
    stage(f), facts(f),
    details ? details.filter((d) => d[0] >= 0).concat(details.filter((d) => d[0] < 0)).map(faceBlock)
      : el("p", { class: "note" }, "No stage worked on it, or this page has no room for its steps; ",
        el("code", {}, "mpsr explain"), " has whatever the ledger holds.")));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  $("detail-title").focus();
  history.replaceState(null, "", `#file-${index}`);
}
$("detail").addEventListener("close", () => history.replaceState(null, "", "#files"));
$("detail").addEventListener("click", (e) => { if (e.target === $("detail")) $("detail").close(); });

if ($("files")) {
  controls();
  if ($("troubles")) troubles(0);
  rankings();
  render();
  const asked = /^#file-(\d+)$/.exec(location.hash);
  if (asked && files[Number(asked[1])]) show(Number(asked[1]));
}
