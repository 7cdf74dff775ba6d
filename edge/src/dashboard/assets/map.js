// The network map: a lane for each step from a VIP to its endpoints. What is chosen in a lane decides the next one.
import { STATES, count, latency, make, name as broken, rate, renew, state } from "./make.js";

const LANES = { vip: "VIPs", listener: "Listeners", certificate: "Certificates", route: "Routes", rule: "Rules", backend: "Backends", endpoint: "Endpoints" };
const ORDER = Object.keys(LANES);
const PAGE = 100;

let focus = "vip";
let wanted = null;
let last = null;

// What the address bar says.
function way() {
  return new URLSearchParams(location.hash.split("?")[1] ?? "");
}

function go(words) {
  const hash = `#/map?${words}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
  window.dispatchEvent(new CustomEvent("edge:load"));
}

function choose(kind, id) {
  const words = way();
  const place = ORDER.indexOf(kind);
  // A certificate is beside the way, not on it.
  const after = kind === "certificate" ? [] : ORDER.slice(place + 1);
  for (const name of [...after, ...(place < 4 ? ["routes_from"] : [])]) words.delete(name);
  // What the way was completed with holds on.
  for (const lane of last?.lanes ?? []) {
    const before = ORDER.indexOf(lane.kind);
    if (before < place && lane.kind !== "certificate" && lane.chosen) words.set(lane.kind, lane.chosen);
  }
  words.set(kind, id);
  [focus, wanted] = [kind, kind];
  go(words);
}

function turn(name, from) {
  const words = way();
  words.set(name, String(Math.max(0, from)));
  go(words);
}

export const view = {
  title: "Map",
  path: () => `/api/map?${way()}`,
  entered() {
    const words = way();
    focus = [...ORDER].reverse().find((kind) => words.has(kind)) ?? "vip";
    wanted = words.size > 0 ? focus : null;
  },
  keys: { t: () => toggle() },
  show(data) {
    last = data;
    const lanes = new Map(data.lanes.map((lane) => [lane.kind, lane]));
    const columns = [["vip"], ["listener", "certificate"], ["route"], ["rule"], ["backend"], ["endpoint"]];
    return [
      bar(),
      make("div", { class: "lanes", role: "group", "aria-label": "Network map: arrow keys move" },
        columns.map((kinds) => make("div", { class: "column" }, kinds.map((kind) => lane(kind, lanes.get(kind)))))),
      details(lanes.get(focus) ?? lanes.get("vip"), lanes),
    ];
  },
  shown() {
    if (!wanted) return;
    const option = document.querySelector(`[data-lane="${wanted}"] [aria-selected="true"]`);
    // Typing in a field is not disturbed, nor whoever went on to another lane meanwhile.
    const lane = document.activeElement?.closest?.("[data-lane]")?.dataset.lane ?? wanted;
    if (option && lane === wanted && !(document.activeElement instanceof HTMLInputElement)) {
      option.focus({ preventScroll: true });
      option.scrollIntoView({ block: "nearest" });
    }
    wanted = null;
  },
};

function toggle() {
  const words = way();
  words.get("only") === "trouble" ? words.delete("only") : words.set("only", "trouble");
  words.delete("routes_from");
  go(words);
}

function bar() {
  const words = way();
  return make("div", { class: "filters" },
    make("button", { type: "button", "aria-pressed": words.get("only") === "trouble" ? "true" : "false", onclick: toggle }, "Only trouble (t)"),
    make("input", { type: "search", "data-own": "routes", id: "routes", "aria-label": "Filter routes by name, host or backend", placeholder: "Filter routes", value: words.get("routes") ?? "", spellcheck: "false", autocomplete: "off", oninput: filter }),
    make("span", { class: "hint" }, "state · requests/s · errors/s · p99, over the last seconds"));
}

let waiting = 0;
function filter(event) {
  const text = event.target.value;
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const words = way();
    words.delete("routes_from");
    text.trim() ? words.set("routes", text) : words.delete("routes");
    go(words);
  }, 200);
}

function lane(kind, data) {
  const title = LANES[kind];
  const total = data?.total ?? 0;
  const head = make("h2", {}, title,
    make("span", { class: "tally" }, STATES.flatMap((name, place) => data?.states[place] ? [state(name, count(data.states[place]))] : [])));
  const list = make("div", { class: "nodes", role: "listbox", tabindex: total ? undefined : "-1", "aria-label": `${title}, ${total}`, "data-lane": kind, "data-key": kind },
    (data?.nodes ?? []).map((node) => option(kind, node, node.id === data.chosen)));
  if (total === 0) list.append(make("p", { class: "empty" }, "none"));
  return make("section", { class: `lane ${kind}` }, head, list, pages(kind, data));
}

function pages(kind, data) {
  if (!data || data.total <= PAGE || !["vip", "route"].includes(kind)) return make("div", { class: "pages" });
  const name = `${kind}s_from`;
  const to = Math.min(data.total, data.from + PAGE);
  return make("div", { class: "pages" },
    make("button", { type: "button", "data-turn": name, "data-from": data.from - PAGE, disabled: data.from === 0, "aria-label": `${LANES[kind]} before` }, "‹"),
    make("span", {}, `${count(data.from + 1)}–${count(to)} of ${count(data.total)}`),
    make("button", { type: "button", "data-turn": name, "data-from": data.from + PAGE, disabled: to >= data.total, "aria-label": `${LANES[kind]} after` }, "›"));
}

function option(kind, node, chosen) {
  const numbers = node.rate ? [`${rate(node.rate.requests)}/s`, node.rate.errors > 0 ? `${rate(node.rate.errors)} err/s` : "", node.rate.p99 ? latency(node.rate.p99) : ""].filter(Boolean).join(" · ") : "";
  return make("div", { class: `node ${node.state}`, role: "option", tabindex: chosen ? "0" : "-1", "aria-selected": chosen ? "true" : "false", "data-id": node.id, "data-kind": kind },
    make("div", { class: "title" }, state(node.state, ""), make("span", { class: "name" }, broken(node.title)), make("span", { class: "word" }, node.state)),
    make("div", { class: "detail" }, broken(node.detail ?? "")),
    node.state !== "up" && node.reason ? make("div", { class: "reason" }, broken(node.reason)) : "",
    numbers ? make("div", { class: "rate" }, numbers) : "");
}

function details(lane, lanes) {
  const node = lane?.nodes.find((one) => one.id === lane.chosen);
  if (!node) return make("section", { class: "panel details" }, make("p", { class: "empty" }, "Nothing is chosen."));
  const path = ORDER.filter((kind) => kind !== "certificate" || lane.kind === kind).map((kind) => lanes.get(kind)).filter((one) => one && ORDER.indexOf(one.kind) <= ORDER.indexOf(lane.kind))
    .map((one) => one.nodes.find((it) => it.id === one.chosen)?.title).filter(Boolean).join(" › ");
  return make("section", { class: "panel details", "aria-label": "Details" },
    make("h2", {}, `${LANES[lane.kind].replace(/s$/, "")} ${node.title}`, make("span", { class: "more" }, path)),
    make("p", {}, state(node.state), " ", make("span", { class: "reason" }, node.reason || "it works")),
    lane.ask ? make("p", {}, make("code", { class: "ask" }, lane.ask)) : "",
    make("dl", { class: "facts" }, lane.facts.map((fact) =>
      make("div", { class: fact.good === undefined ? "" : fact.good ? "good" : "bad" },
        make("dt", {}, fact.good === undefined ? "" : state(fact.good ? "up" : "down", ""), fact.about), make("dd", {}, fact.text)))));
}

// One listener for all nodes, however often they are made anew.
document.addEventListener("click", (event) => {
  const node = event.target.closest?.("[data-id][data-kind]");
  if (node) choose(node.dataset.kind, node.dataset.id);
  const page = event.target.closest?.("[data-turn]");
  if (page) turn(page.dataset.turn, Number(page.dataset.from));
});

document.addEventListener("focusin", (event) => {
  const node = event.target.closest?.("[data-id][data-kind]");
  if (!node || node.dataset.kind === focus || !last) return;
  focus = node.dataset.kind;
  const old = document.querySelector(".details");
  const lanes = new Map(last.lanes.map((lane) => [lane.kind, lane]));
  if (old) renew(old.parentNode, [...[...old.parentNode.childNodes].filter((child) => child !== old), details(lanes.get(focus), lanes)]);
});

document.addEventListener("keydown", (event) => {
  const node = event.target.closest?.("[data-id][data-kind]");
  if (!node || event.ctrlKey || event.altKey || event.metaKey) return;
  const all = [...node.parentNode.querySelectorAll("[data-id]")];
  const place = all.indexOf(node);
  const beside = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: all.length - 1, PageDown: Math.min(all.length - 1, place + 10), PageUp: Math.max(0, place - 10) }[event.key];
  if (beside !== undefined) {
    event.preventDefault();
    const next = all[beside];
    if (next && next !== node) {
      next.focus();
      choose(next.dataset.kind, next.dataset.id);
    }
    return;
  }
  if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
    event.preventDefault();
    const step = event.key === "ArrowRight" ? 1 : -1;
    for (let at = ORDER.indexOf(node.dataset.kind) + step; at >= 0 && at < ORDER.length; at += step) {
      const option = document.querySelector(`[data-lane="${ORDER[at]}"] [aria-selected="true"]`);
      if (option) {
        option.focus();
        return;
      }
    }
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose(node.dataset.kind, node.dataset.id);
  }
});
