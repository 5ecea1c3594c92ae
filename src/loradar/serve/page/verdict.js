// What a model answers to a picture, as elements.

import { bar, byId, chip, el, percent } from "./dom.js";

const MEASURES = {
  mask: "two-round masking", inpaint: "inpainting", smooth: "smoothing", jpeg: "JPEG", "bit-depth": "fewer bits",
};

/** A picture as the model sees it, with a rectangle where one is suspected. */
export function figure(url, region, caption) {
  const image = el("img", { src: url, alt: "" });
  const frame = el("div", { class: "frame" }, image);
  image.addEventListener("load", () => {
    image.classList.toggle("small", image.naturalWidth < 160);
    if (!region) return;
    const [top, left, height, width] = region;
    const box = el("div", { class: "region" });
    const [rows, columns] = [image.naturalHeight, image.naturalWidth];
    const shares = { top: top / rows, height: height / rows, left: left / columns, width: width / columns };
    for (const [name, share] of Object.entries(shares)) {
      box.style[name] = `${100 * share}%`;
    }
    frame.append(box);
  });
  return el("figure", {}, frame, el("figcaption", {}, ...caption));
}

/** A URL for a PNG in base64, of this page alone. */
export function urlOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
}

/** One answer: class, suspicion, measures, votes, and whose it is. */
export function verdict(reply, found) {
  return [headline(found, ""), el("dl", {}, ...facts(reply, found)), found.voters ? votesTable(found) : classesTable(found)];
}

function headline(found, prefix) {
  const line = el("p", { class: "answer" }, el("b", { id: `${prefix}answer` }, found.class), percent(found.probability));
  const suspected = found.suspected;
  if (!suspected) return line;
  const isClean = suspected.attack === "clean";
  const words = isClean ? "looks clean" : `suspected: ${suspected.attack}`;
  const said = chip(`${words}, ${percent(suspected.probability)}`, isClean ? "good" : "bad");
  said.id = `${prefix}suspected`;
  line.append(said);
  return line;
}

function facts(reply, found) {
  const whose = el("span", { id: "whose" }, `${reply.model}@${reply.version}`);
  const rows = [["Answered by", whose, " ", el("code", {}, reply.fingerprint.slice(0, 12))]];
  if (found.suspected) {
    const measures = found.measures.map((name) => MEASURES[name] ?? name).join(", ") || "none";
    rows.push(["Measures taken", el("span", { id: "measures" }, measures)]);
    rows.push(["Level of alarm", found.level]);
  }
  return rows.flatMap(([name, ...values]) => [el("dt", {}, name), el("dd", {}, ...values)]);
}

/** Pairs of a name and its vote, the guard's own first. Where the gate lets an image pass, the base answered alone. */
const votesOf = (found) => [
  ["guard", found],
  ...Object.entries(found.voters).map(([name, vote]) => [name, vote ?? (name === "base" ? found.top[0] : null)]),
];

function votesTable(found) {
  const rows = votesOf(found).map(([name, vote], index) => el("tr", { class: index === 0 ? "total" : null },
    el("th", { scope: "row" }, name),
    el("td", { class: vote ? null : "quiet" }, vote ? vote.class : "not asked"),
    ...shareOf(vote)));
  const passed = !found.voters.base;
  return el("div", {}, table(["Who", "Answer", "Probability", ""], rows, "votes"),
    passed ? el("p", { class: "quiet note" }, "The gate took the picture for clean, so the base answered alone.") : null);
}

const classesTable = (found) => table(["Class", "Probability", ""],
  found.top.map((one) => el("tr", {}, el("th", { scope: "row" }, one.class), ...shareOf(one))), "votes");

const shareOf = (vote) => [
  el("td", {}, vote ? bar(vote.probability) : ""),
  el("td", { class: "number" }, vote ? percent(vote.probability) : ""),
];

function table(heads, rows, id) {
  const head = el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)));
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", { id }, ...rows)));
}

/** Both answers of a model, before an attack and after it, for itself and for each of its voters. */
export function comparison(reply) {
  const [before, after] = reply.predictions;
  const everyone = (found) => (found.voters ? votesOf(found) : [[reply.model, found]]);
  const old = everyone(before);
  const rows = everyone(after).map(([name, vote], index) => {
    const was = old[index][1];
    return el("tr", { class: index === 0 ? "total" : null },
      el("th", { scope: "row" }, name), el("td", {}, ...said(was)), el("td", {}, ...said(vote)),
      // a voter that was not asked before is compared with the answer that stood
      el("td", {}, judged(was ?? before, vote)));
  });
  return [
    el("h3", {}, "Under the attack"),
    el("p", { class: "quiet" }, el("code", {}, reply.attack),
      ` by the gradients of the ${reply.against}, away from its answer. Not counted as traffic.`),
    headline(after, "attacked-"),
    table(["Who", "Before", "After", ""], rows, "tried"),
  ];
}

function judged(before, after) {
  if (!after) return chip("not asked");
  return before.class === after.class ? chip("✓ holds", "good") : chip("✗ fooled", "bad");
}

const said = (vote) => (vote ? [vote.class, " ", el("span", { class: "quiet" }, percent(vote.probability))] : ["–"]);

/** Fills a list of choices, and keeps the one that was made where it is still there. */
export function offer(id, values) {
  const list = byId(id), old = list.value;
  if ([...list.options].map((option) => option.value).join("\n") === values.join("\n")) return;
  list.replaceChildren(...values.map((value) => el("option", { value }, value)));
  if (values.includes(old)) list.value = old;
}
