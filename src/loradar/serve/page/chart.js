// The traffic of a guard, from when the page was opened: the suspected share over time, and what the last images are.

import { el, svg, percent } from "./dom.js";

const WIDTH = 520, HEIGHT = 190, LEFT = 54, RIGHT = 8, TOP = 10, BOTTOM = 24;
const MINUTES = 5;
const SHOWN = MINUTES * 60_000;

/** Remembers a state of `v1/traffic` in a list of them, and forgets what has left the chart. */
export function remember(past, state, now) {
  past.push({ at: now, share: state.suspected, raised: state.level === "raised", seen: state.seen });
  while (past.length > 2 && past[1].at < now - SHOWN) past.shift();
}

/** Draws a state and the ones before it. */
export function draw(past, state, now) {
  const last = state.counts;
  const total = Object.values(last).reduce((sum, count) => sum + count, 0);
  const labels = Object.keys(last).sort((a, b) => (b === "clean") - (a === "clean") || a.localeCompare(b));
  const shares = el("div", { class: "shares", "aria-hidden": "true" });
  const legend = el("ul", { class: "legend" });
  for (const label of labels) {
    const color = `of-${colorOf(label)}`;
    const part = el("span", { class: color });
    part.style.flex = `${last[label]} 0 0`;
    shares.append(part);
    legend.append(el("li", {}, el("i", { class: color }), `${label} ${last[label]}`));
  }
  const rate = speed(past, now);
  return [
    chart(past, state, now),
    el("p", { class: "quiet" }, `Seen: ${state.seen}, ${rate.toFixed(1)} a second. The last ${total}:`),
    shares,
    legend,
  ];
}

const colors = new Map([["clean", 0]]);

function colorOf(label) {
  if (!colors.has(label)) colors.set(label, 1 + ((colors.size - 1) % 5));
  return colors.get(label);
}

/** Images a second, over the last ten seconds. */
function speed(past, now) {
  const since = past.filter((point) => point.at >= now - 10_000);
  if (since.length < 2) return 0;
  const [first, last] = [since[0], since[since.length - 1]];
  return Math.max(0, (1000 * (last.seen - first.seen)) / (last.at - first.at));
}

/** When the alarm was raised, as pairs of a beginning and an end. */
function alarms(past, now) {
  const found = [];
  past.forEach((point, index) => {
    if (!point.raised) return;
    if (index > 0 && past[index - 1].raised) found[found.length - 1][1] = past[index + 1]?.at ?? now;
    else found.push([point.at, past[index + 1]?.at ?? now]);
  });
  return found;
}

function chart(past, state, now) {
  const x = (at) => LEFT + Math.max(0, 1 - (now - at) / SHOWN) * (WIDTH - LEFT - RIGHT);
  const y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const words = `Suspected share of the last ${state.window} images: ${percent(state.suspected)}, level ${state.level}.`;
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words });
  for (const [from, to] of alarms(past, now)) {
    const size = { width: x(to) - x(from), height: y(0) - TOP };
    drawing.append(svg("rect", { class: "raised", x: x(from), y: TOP, ...size }));
  }
  for (const share of [0, 0.5, 1]) {
    drawing.append(
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share) }),
      svg("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}\u00a0%`),
    );
  }
  for (let minutes = MINUTES; minutes >= 0; minutes -= 1) {
    const anchor = { 0: "end", [MINUTES]: "start" }[minutes] ?? "middle";
    const text = minutes === 0 ? "now" : `−${minutes} min`;
    drawing.append(svg("text", { x: x(now - 60_000 * minutes), y: HEIGHT - 6, "text-anchor": anchor }, text));
  }
  const points = [...past, { ...past[past.length - 1], at: now }];
  const line = points.map((point) => `${x(point.at).toFixed(1)},${y(point.share).toFixed(1)}`);
  drawing.append(
    svg("polygon", { class: "area", points: [`${x(past[0].at)},${y(0)}`, ...line, `${x(now)},${y(0)}`].join(" ") }),
    svg("polyline", { class: "curve", points: line.join(" ") }),
    svg("text", { x: LEFT + 6, y: TOP + 14 }, `suspected, of the last ${state.window} images; red: alarm`),
  );
  return drawing;
}
