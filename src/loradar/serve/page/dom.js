// Elements made of text alone: nothing that a server or a file says is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Makes an element; strings among the children become text. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A share of 1 in words that do not break. */
export const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

/** A bar for a share of 1; its number stands beside it. */
export function bar(share) {
  const filling = el("i");
  filling.style.width = `${100 * share}%`;
  return el("span", { class: "bar", "aria-hidden": "true" }, filling);
}

export const chip = (text, kind = "") => el("span", { class: `chip ${kind}` }, text);

/** Replaces what an element holds. */
export function show(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null));
}
