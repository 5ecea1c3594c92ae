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
    const sizes = { top: top / image.naturalHeight, height: height / image.naturalHeight };
    for (const [name, share] of Object.entries({ ...sizes, left: left / image.naturalWidth, width: width / image.naturalWidth })) {
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
  return [
    el("p", { class: "answer" }, el("b", { id: "answer" }, found.class), el("span", {}, percent(found.probability)), suspicion(found)),
    el("dl", {}, ...facts(reply, found)),
    table(found),
  ];
}

function suspicion(found) {
  const suspected = found.suspected;
  if (!suspected) return null;
  const [text, kind] = suspected.attack === "clean" ? ["looks clean", "good"] : [`suspected: ${suspected.attack}`, "bad"];
  return el("span", { id: "suspected", class: `chip ${kind}` }, `${text}, ${percent(suspected.probability)}`);
}

function facts(reply, found) {
  const rows = [["Answered by", el("span", { id: "whose" }, `${reply.model}@${reply.version}`), " ", el("code", {}, reply.fingerprint.slice(0, 12))]];
  if (found.suspected) {
    const measures = found.measures.map((name) => MEASURES[name] ?? name).join(", ") || "none";
    rows.push(["Measures taken", el("span", { id: "measures" }, measures)]);
    rows.push(["Level of alarm", found.level]);
  }
  return rows.flatMap(([name, ...values]) => [el("dt", {}, name), el("dd", {}, ...values)]);
}

/** Everyone's vote by name, the guard's own first. The base is not listed as asked where the gate let it answer alone. */
function votes(found) {
  const passed = !found.voters.base;
  return { passed, of: { guard: found, ...found.voters, base: passed ? found.top[0] : found.voters.base } };
}

/** The guard's answer and its voters', or the likeliest classes of a model that has no voters. */
function table(found) {
  const { passed, of } = found.voters ? votes(found) : { passed: false, of: null };
  const body = el("tbody", { id: "votes" });
  for (const [name, vote] of of ? Object.entries(of) : found.top.map((one) => [one.class, one])) {
    const row = el("tr", { class: name === "guard" && of ? "total" : null }, el("th", { scope: "row" }, name));
    if (of) row.append(el("td", { class: vote ? null : "quiet" }, vote ? vote.class : "not asked"));
    row.append(el("td", {}, vote ? bar(vote.probability) : ""), el("td", { class: "number" }, vote ? percent(vote.probability) : ""));
    body.append(row);
  }
  const heads = (of ? ["Who", "Answer", "Probability", ""] : ["Class", "Probability", ""]).map((text) => el("th", { scope: "col" }, text));
  return el("div", { class: "scroll" },
    el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body),
    passed ? el("p", { class: "quiet note" }, "The gate took the picture for clean, so the base answered alone.") : null);
}

/** Both answers of a model, before an attack and after it, for itself and for each of its voters. */
export function comparison(reply) {
  const [before, after] = reply.predictions;
  const everyone = (found) => (found.voters ? votes(found).of : { [reply.model]: found });
  const [old, now] = [everyone(before), everyone(after)];
  const body = el("tbody", { id: "tried" });
  for (const name of Object.keys(now)) {
    // a voter that was not asked before is compared with the answer that stood
    const was = old[name] ?? before;
    const fooled = now[name] ? now[name].class !== was.class : null;
    const judged = fooled === null ? chip("not asked") : fooled ? chip("✗ fooled", "bad") : chip("✓ holds", "good");
    body.append(
      el("tr", { class: before.voters && body.childElementCount === 0 ? "total" : null },
        el("th", { scope: "row" }, name), el("td", {}, ...vote(old[name])), el("td", {}, ...vote(now[name])), el("td", {}, judged)),
    );
  }
  const heads = ["Who", "Before", "After", ""].map((text) => el("th", { scope: "col" }, text));
  return [
    el("h3", {}, "Under the attack"),
    el("p", { class: "quiet" }, el("code", {}, reply.attack), ` by the gradients of the ${reply.against}, away from its answer. Not counted as traffic.`),
    el("p", { class: "answer" }, el("b", { id: "attacked-answer" }, after.class), el("span", {}, percent(after.probability)), suspicionAfter(after)),
    el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)),
  ];
}

function suspicionAfter(found) {
  const chipped = suspicion(found);
  chipped?.setAttribute("id", "attacked-suspected");
  return chipped;
}

const vote = (found) => (found ? [found.class, " ", el("span", { class: "quiet" }, percent(found.probability))] : ["–"]);

/** Fills a list of choices, and keeps the one that was made where it is still there. */
export function offer(id, values) {
  const list = byId(id), old = list.value;
  if ([...list.options].map((option) => option.value).join("\n") === values.join("\n")) return;
  list.replaceChildren(...values.map((value) => el("option", { value }, value)));
  if (values.includes(old)) list.value = old;
}
