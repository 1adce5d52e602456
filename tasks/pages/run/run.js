// The behaviour of a run's page; shared/page.js comes before it.
const weight = (b) => b === null ? MISSING : b < 1e6 ? `${Math.ceil(b / 1e3)} kB` : `${(b / 1e6).toFixed(1)} MB`;
const outcomeKey = (index) => data.outcomes[rows.outcome[index]][0];
const faceCount = (index) => rows.faces[index] === null ? MISSING : plural(rows.faces[index], "face", "faces");
const scored = (index) => value(index, "before") === null && value(index, "after") === null ? MISSING
  : `${number(value(index, "before"))} → ${number(value(index, "after"))}`;
const sentence = (index) => rows.reason[index]
  || (rows.code[index] === "ok" ? "" : (data.reasons[rows.code[index]] || [0, ""])[1] || rows.code[index]);

function card(index) {
  const [folder, name] = split(rows.path[index]), view = rows.view[index];
  const mat = el("div", { class: "mat" }, typeof view === "string" ? el("p", { class: "note" }, `No picture: ${view}`) : compare(view, name));
  const faces = view[0].startsWith("face") ? `${view[0]} of ${count(rows.faces[index])}` : faceCount(index);
  return [mat, el("h3", {}, nameButton(index, name)), el("p", { class: "folder" }, shown(folder)),
    el("p", { class: "line" }, tag(rows.outcome[index]), el("span", {}, faces)),
    data.measure && rows.faces[index] ? el("p", { class: "line" }, el("span", {}, data.measure), measured(scored(index))) : null];
}
function fill() {
  const total = data.outcomes.reduce((sum, o) => sum + o[2], 0);
  chips("chips", [["", "All", total, "all"],
    ...data.outcomes.map(([key, label, n], place) => [String(place), label, n, key]).filter((entry) => entry[2])]);
  options("reason", [["", "any"], ...Object.entries(data.reasons).map(([code, [n]]) =>
    [code, `${code.replaceAll("_", " ")} (${count(n)})`])]);
}

/* ---- troubles and extremes ---- */
function troubles(number) {
  const found = rows.path.map((_, index) => index).filter((index) => data.troubles.includes(rows.outcome[index])).sort(page.first);
  const pages = Math.ceil(found.length / ROWS);
  $("troubles-list").replaceChildren(table(found.slice(number * ROWS, (number + 1) * ROWS), "Files that need a look", false),
    pages > 1 ? pager(number, pages, troubles) : "");
}
const RANKINGS = {
  slowest: ["Slowest", (index) => duration(value(index, "seconds"))],
  lost_most: ["Lost most by the score", (index) => number(value(index, "gain"))],
  most_changed: ["Most changed", (index) => number(value(index, "change"))],
  least_alike: ["Least alike", (index) => number(value(index, "identity"))],
};
// The ten that a person should look at first: unlike their input, or worse by the score.
function worst() {
  const found = [...new Set([...data.rankings.least_alike, ...data.rankings.lost_most])].filter(page.pictured).slice(0, 10);
  $("worst").hidden = !found.length;
  $("worst-pictures").append(...found.map((index) => el("li", {}, el("article", { class: "card" }, card(index)))));
}
function rankings() {
  for (const [key, [title, told]] of Object.entries(RANKINGS)) {
    if (!data.rankings[key].length) continue;
    $("extremes").hidden = false;
    $("rankings").append(el("div", { class: "rank" }, el("h3", {}, title), el("ol", {}, data.rankings[key].map((index) =>
      el("li", {}, nameButton(index, rows.path[index]), el("span", {}, told(index)))))));
  }
}

/* ---- one file ---- */
function stand(name, views) {
  if (!views.length) return [];
  const frame = el("div", { class: "stand" });
  const choice = tabs("View", views.map((view) => [view[0], view]), (view) => frame.replaceChildren(compare(view, name)), views.length - 1);
  return [el("div", { class: "tools" }, choice, zoomed(frame)), frame];
}
function facts(index, [id, format, width, height, bytes, chosen]) {
  const kept = ["restored", "fallback", "left_alone", "rejected_identity"].includes(outcomeKey(index)), path = rows.path[index];
  const picture = [format, width ? `${width} × ${height}` : null, bytes === null ? null : weight(bytes)].filter(Boolean).join(", ");
  return factList([["Outcome", el("span", {}, tag(rows.outcome[index]), sentence(index) ? ` · ${sentence(index)}` : "")],
    kept ? ["Restored file", el("a", { href: address(data.restored, path) }, shown(split(path)[1]))] : null,
    ["Path", shown(path)], ["Picture", picture || MISSING], ["Faces", rows.faces[index] === null ? MISSING : count(rows.faces[index])],
    [data.measure || "Score", scored(index)], ["Least similarity", number(value(index, "identity"))],
    ["Device time", duration(value(index, "seconds"))], ["Content", el("code", { class: "hash" }, id)],
    ["Weights", el("a", { href: "#recipe", onclick: () => $("detail").close() }, "listed with their hashes")],
    chosen && chosen !== "everything" ? ["In the sample", chosen] : null]);
}
function faceBlock([face, outcome, steps, scores], n) {
  if (face < 0) return el("div", {}, el("h3", {}, "The picture as a whole"), stepTable(steps));
  const lines = scores.map(([title, before, after, alone]) => [title, alone ? "" : number(before), number(after)]);
  return el("details", { open: n < 2 }, el("summary", {}, el("b", {}, `Face ${face + 1} `), tag(outcome)),
    lines.length ? numbers(`Scores of face ${face + 1}`, ["Score", "Before", "After"], lines)
      : el("p", { class: "note" }, "Nothing was measured on it."), el("p", {}), stepTable(steps));
}
function sheet(index, told) {
  const [views, faces] = told.slice(6), name = split(rows.path[index])[1];
  return [stand(name, views), facts(index, told),
    faces.length ? [...faces.filter((f) => f[0] >= 0), ...faces.filter((f) => f[0] < 0)].map(faceBlock)
      : el("p", { class: "note" }, "No stage worked on it; ", el("code", {}, "mpsr explain"), " has whatever the ledger holds.")];
}

if ($("list")) begin({
  one: "file", many: "files", listed: "by outcome", card, sheet, fill,
  title: (index) => split(rows.path[index])[1],
  first: (a, b) => rows.outcome[a] - rows.outcome[b] || byPath(a, b),
  pictured: (index) => rows.view[index] !== null,
  filters: { chips: (index, wanted) => rows.outcome[index] === Number(wanted), reason: (index, wanted) => rows.code[index] === wanted },
  cells: [
    { title: "File", plain: true, cell: (index) => nameButton(index, rows.path[index]) },
    { title: "Outcome", plain: true, cell: (index) => tag(rows.outcome[index]) },
    { title: "Why", plain: true, cell: sentence },
    { title: "Faces", cell: (index) => rows.faces[index] === null ? "" : count(rows.faces[index]) },
    ...data.measure ? [{ title: data.measure, column: "gain", cell: (index) => rows.faces[index] ? measured(scored(index)) : "" }] : [],
  ],
  received() {
    worst();
    rankings();
    if ($("troubles")) troubles(0);
  },
});
