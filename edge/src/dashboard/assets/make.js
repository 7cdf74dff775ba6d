// Elements from values. Whatever comes from edged becomes text here and nothing else.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

export const STATES = ["down", "degraded", "pending", "up"];

// Colour, shape and word.
export function state(name, text = name) {
  const known = STATES.includes(name) ? name : "pending";
  return make("span", { class: `state ${known}` }, make("span", { class: "shape", "aria-hidden": "true" }), text);
}

export function health(row) {
  return make("span", { class: "health" }, state(row.state), row.reason ? make("span", { class: "reason" }, row.reason) : "");
}

// A name that may be broken after its marks and not within a word.
export function name(text) {
  const marks = text.length > 22 ? /(?<=[/.:,])/ : /(?<=\/)/;
  return text.split(marks).flatMap((part, place) => place ? [document.createElement("wbr"), part] : [part]);
}

export function rate(value) {
  if (value === undefined || value === null) return "–";
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(1);
  if (value < 10_000) return Math.round(value).toLocaleString("en");
  return `${(value / 1000).toFixed(1)}k`;
}

export function count(value) {
  return value === undefined || value === null ? "–" : value.toLocaleString("en");
}

export function latency(seconds) {
  if (seconds === undefined || seconds === null) return "–";
  const millis = seconds * 1000;
  if (millis < 1) return `${millis.toFixed(2)} ms`;
  if (millis < 100) return `${millis.toFixed(1)} ms`;
  if (millis < 10_000) return `${Math.round(millis)} ms`;
  return `${seconds.toFixed(1)} s`;
}

// As edgectl writes lengths: the two largest units.
export function span(seconds) {
  let left = Math.max(0, Math.round(seconds));
  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => left >= size);
  if (first < 0) return "0s";
  const [name, size] = units[first];
  let text = `${Math.floor(left / size)}${name}`;
  left %= size;
  const next = units[first + 1];
  if (next && !(first === 0 && seconds >= 14 * 86400) && left >= next[1]) text += `${Math.floor(left / next[1])}${next[0]}`;
  return text;
}

export function since(text, now) {
  const at = Date.parse(text ?? "");
  return Number.isNaN(at) ? "–" : span((now - at) / 1000);
}

export function day(text) {
  return text ? text.slice(0, 10) : "–";
}

export function panel(title, more, ...children) {
  return make("section", { class: "panel" }, make("h2", {}, title, more ? make("span", { class: "more" }, more) : ""), ...children);
}

// `columns`: [title, cell of a row, class]
export function table(label, columns, rows, empty) {
  if (rows.length === 0) return make("p", { class: "empty" }, empty);
  const head = make("tr", {}, columns.map(([title, , kind]) => make("th", { scope: "col", class: kind }, title)));
  const body = rows.map((row) =>
    make("tr", {}, columns.map(([, cell, kind]) => make("td", { class: kind }, cell(row)))));
  return make("div", { class: "scroll" }, make("table", { "aria-label": label }, make("thead", {}, head), make("tbody", {}, body)));
}

export function link(text, way) {
  return make("a", { href: `#/map?${new URLSearchParams(way)}` }, text);
}

// Puts new children where the old ones were without touching those that say the same: focus, selection and scrolling stay.
export function renew(parent, children) {
  const old = [...parent.childNodes];
  children.forEach((child, place) => {
    const known = old[place];
    if (!known) parent.append(child);
    else if (!known.isEqualNode(child)) mend(parent, known, child);
  });
  old.slice(children.length).forEach((rest) => rest.remove());
}

function mend(parent, known, child) {
  // A field that somebody types in stays as it is.
  if (known.tagName === "INPUT" && known.dataset.own === child.dataset?.own) return;
  const alike = known.nodeType === 1 && child.nodeType === 1 && known.tagName === child.tagName && !known.dataset.own;
  if (!alike) {
    parent.replaceChild(child, known);
    return;
  }
  for (const { name } of [...known.attributes]) if (!child.hasAttribute(name)) known.removeAttribute(name);
  for (const { name, value } of child.attributes) if (known.getAttribute(name) !== value) known.setAttribute(name, value);
  renew(known, [...child.childNodes]);
}
