"use strict";
// What both pages do: elements, words for numbers, names from the archive, the before/after slider, the pager.
// Everything from the archive reaches the document as text, never as markup.
const MISSING = "not measured";
const $ = (id) => document.getElementById(id);

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

/* ---- pages ---- */
function pager(page, pages, turn) {
  const step = (by, text) => el("button", { type: "button", class: "plain",
    disabled: page + by < 0 || page + by >= pages, onclick: () => turn(page + by) }, text);
  const jump = (event) => turn(Math.min(Math.max(Math.round(event.target.valueAsNumber) || 1, 1), pages) - 1);
  return el("nav", { class: "pager", "aria-label": "Pages" }, step(-1, "Earlier"), step(1, "Later"),
    pages < 5 ? el("span", {}, `page ${page + 1} of ${pages}`) : el("label", { class: "jump" }, "page",
      el("input", { type: "number", min: 1, max: pages, value: page + 1, onchange: jump }), `of ${count(pages)}`));
}

/* ---- what stages did ---- */
function plain(value) {
  if (value === null || typeof value !== "object") return typeof value === "number" ? number(value) : String(value);
  return Array.isArray(value) ? value.map(plain).join(", ")
    : Object.entries(value).map(([k, v]) => `${k} ${plain(v)}`).join(", ");
}
function stepRow([stage, result, code, reason, ms, attempt, decision]) {
  const facts = Object.entries(decision).map(([k, v]) => `${k.replaceAll("_", " ")}: ${plain(v)}`).join(" · ");
  return el("tr", {}, el("th", { scope: "row" }, stage),
    el("td", {}, reason || code.replaceAll("_", " "), attempt > 1 ? ` (try ${attempt})` : "",
      facts ? el("div", { class: "decision" }, facts) : null),
    el("td", { class: "n" }, result === "skipped" && !ms ? "" : measured(duration(ms === null ? null : ms / 1000))));
}
function stepTable(steps) {
  return el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Stage"),
    el("th", { scope: "col" }, "What happened"), el("th", { scope: "col", class: "n" }, "Time"))),
    el("tbody", {}, steps.map(stepRow)));
}
