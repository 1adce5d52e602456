// The behaviour of an evaluation's page; shared/page.js comes before it.
const METRICS = COLUMNS.filter((c) => c.kind === "metric");
const FAILED = "identity failure", PANELS = ["input", "result", "truth"];
const many = new Set(); // pictures with several faces
const faceName = (index) => {
  const name = split(rows.path[index])[1];
  return many.has(rows.path[index]) && rows.face[index] >= 0 ? `${name}, face ${rows.face[index] + 1}` : name;
};
const problemWords = (code) => data.problems[code] || code.replaceAll("_", " ");
const low = (index, column, text) => column.name === "identity" && rows.failed[index] === 1
  ? el("span", { class: "low" }, text, " ", el("span", { class: "ear" }, "below its threshold")) : text;
const score = (index, column) => low(index, column, measured(number(value(index, column.name))));

// The pictures of a face lie side by side in one file.
const side = (src, n, of) => (alt) =>
  el("img", { src, alt, class: "panel", style: `--n:${n};--of:${of}`, loading: "lazy", decoding: "async", draggable: "false" });
function view(index, from, to, large) {
  const size = large ? data.sides.large : data.sides.small, of = rows.panels[index];
  const src = `pictures/${rows.picture[index]}${large ? "-large" : ""}.jpg`;
  return compare([large ? "large view" : "small view", size, size, side(src, from, of), side(src, to, of)], faceName(index),
    [PANELS[from], PANELS[to]]);
}
function card(index) {
  const problem = rows.problem[index], sorted = COLUMNS.find((c) => c.name === orderOf(state.order)[0]);
  const columns = [...new Set([sorted, METRICS.find((c) => c.name.startsWith("identity")), ...METRICS])].filter(Boolean);
  const mat = el("div", { class: "mat" }, rows.picture[index] ? view(index, 0, 1, false)
    : el("p", { class: "note" }, problem ? problemWords(problem) : "no picture"));
  const line = (c) => el("p", { class: "line" }, el("span", {}, c.of === "identity" ? "identity" : c.title), el("span", {}, score(index, c)));
  return [mat, el("h3", {}, nameButton(index, faceName(index))), el("p", { class: "folder" }, shown(split(rows.path[index])[0])),
    problem ? null : columns.slice(0, 3).map(line)];
}
function named(index) {
  return [nameButton(index, rows.path[index]), many.has(rows.path[index]) && rows.face[index] >= 0 ? ` face ${rows.face[index] + 1}` : "",
    rows.problem[index] ? el("div", { class: "decision" }, problemWords(rows.problem[index])) : ""];
}
function fill() {
  const tally = (test) => count(rows.path.reduce((n, _, index) => n + test(index), 0));
  options("subset", [["", "all"], ...data.subsets.map((name, n) => [n, name || "no subset"])]);
  $("subset").parentNode.hidden = data.subsets.length < 2;
  const codes = Object.keys(data.problems);
  options("problem", [["", `everything (${count(rows.path.length)})`],
    ...data.judged ? [[FAILED, `identity failures (${tally((index) => rows.failed[index] === 1)})`]] : [],
    ...codes.length ? [["measured", `measured (${tally((index) => !rows.problem[index])})`]] : [],
    ...codes.map((code) => [code, `${code.replaceAll("_", " ")} (${tally((index) => rows.problem[index] === code)})`])]);
  for (const link of document.querySelectorAll("[data-problem]")) {
    link.addEventListener("click", () => choose("problem", link.dataset.problem));
  }
}

/* ---- one face ---- */
function stand(index) {
  if (!rows.picture[index]) return [];
  const large = rows.large[index] === 1;
  const pairs = rows.panels[index] > 2 ? [[0, 1], [1, 2], [0, 2]] : [[0, 1]];
  const frame = el("div", { class: "stand" });
  const compared = tabs("What is compared", pairs.map(([a, b]) => [`${PANELS[a]} and ${PANELS[b]}`, [a, b]]),
    ([a, b]) => frame.replaceChildren(view(index, a, b, large)));
  return [el("div", { class: "tools" }, compared, zoomed(frame)), frame,
    large ? null : el("p", { class: "note" }, "Of this face the page has the small view only.")];
}
function strip(name, stages) {
  const heading = el("h3", {}, "Stage by stage");
  if (!name) {
    const why = !data.ledger ? "the ledger of the restoring run is not known"
      : !data.pictures ? "this page was written without pictures"
      : "the intermediates of this face were not kept, or the page has no room for them";
    return [heading, el("p", { class: "note" }, `No pictures of the stages: ${why}.`)];
  }
  const panel = (stage, n) => el("li", {}, el("img", { src: `pictures/${name}`, alt: `after ${stage}`, loading: "lazy",
    style: `--n:${n};--of:${Math.max(stages.length, 2)}` }), stage === "detect_align" ? `${stage} (the input)` : stage);
  return [heading, el("ol", { class: "strip", tabindex: "0", "aria-label": "What each stage made of the face" }, stages.map(panel))];
}
function scores(index) {
  const gains = new Map(COLUMNS.filter((c) => c.kind === "difference").map((c) => [c.of, value(index, c.name)]));
  const line = (c) => {
    const result = value(index, c.name), gain = gains.get(c.name) ?? null;
    const before = gain === null ? "" : number(result - gain), difference = gain === null ? "" : number(gain);
    return gains.size ? [c.title, before, score(index, c), difference] : [c.title, score(index, c)];
  };
  return numbers("Scores of this face", gains.size ? ["Metric", "Input", "Result", "Difference"] : ["Metric", "Result"], METRICS.map(line));
}
function facts(index, [problem, input, truth, restoredHash, inputHash, truthHash, picture]) {
  const link = (tree, path) => data.trees && data.trees[tree]
    ? el("a", { href: address(data.trees[tree], path) }, shown(path)) : shown(path);
  const hashes = [["restored", restoredHash], ["input", inputHash], ["truth", truthHash]].filter((pair) => pair[1]);
  const subset = data.subsets[rows.subset[index]];
  return factList([["Restored", link("restored", rows.path[index])], ["Input", input ? link("input", input) : "none found"],
    truth ? ["Truth", link("truth", truth)] : null,
    many.has(rows.path[index]) ? ["Face", count(rows.face[index] + 1)] : null, subset ? ["Subset", shown(subset)] : null,
    rows.problem[index] ? ["Not measured", problem || problemWords(rows.problem[index])] : null,
    picture ? ["No picture", picture] : null,
    ["Content", hashes.map(([name, hash]) => el("div", {}, `${name} `, el("code", { class: "hash" }, hash)))]]);
}
function sheet(index, told) {
  const [stripName, stages, steps] = told.slice(7);
  const block = ([face, outcome, lines]) => el("details", { open: face >= 0 },
    el("summary", {}, el("b", {}, face < 0 ? "The picture as a whole " : "What the stages did to it "), tag(outcome)), stepTable(lines));
  return [stand(index), rows.problem[index] ? null : [strip(stripName, stages), el("h3", {}, "Scores"), scores(index)],
    el("h3", {}, "Files"), facts(index, told), steps.map(block)];
}

begin({
  one: "face", many: "faces", listed: "as in the file", card, sheet, fill, title: faceName, first: (a, b) => a - b,
  filters: {
    subset: (index, wanted) => rows.subset[index] === Number(wanted),
    problem: (index, wanted) => wanted === "measured" ? !rows.problem[index]
      : wanted === FAILED ? rows.failed[index] === 1 : rows.problem[index] === wanted,
  },
  cells: [
    { title: "File", plain: true, cell: named },
    { title: "Subset", plain: true, cell: (index) => shown(data.subsets[rows.subset[index]]) },
    ...COLUMNS.map((c) => ({ title: c.title, column: c.name, cell: (index) => rows.problem[index] ? "" : score(index, c) })),
  ],
  received() {
    const seen = new Set();
    for (const path of rows.path) (seen.has(path) ? many : seen).add(path);
  },
});
