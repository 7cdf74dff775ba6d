// The page: which view is shown, when it is asked for anew, and what is said when edged does not answer.
import { make, renew, span, state } from "./make.js";
import { view as map } from "./map.js";
import { view as overview } from "./overview.js";
import { search } from "./search.js";
import { announcements, certificates, findings } from "./tables.js";

const VIEWS = { overview, map, announcements, certificates, findings };
const EVERY = 2000;
// Longer than a poll and a slow answer: from here on the page says that it is old.
const STALE = 6000;
const PATIENCE = 5000;

const at = (id) => document.getElementById(id);
let current = null;
let seen = 0;
let seenAt = "";
let trouble = "";
let paused = false;
let asked = 0;
let next = 0;

function fault(text) {
  at("fault").hidden = false;
  at("fault").textContent = `This page has a fault, so it may show less than there is: ${text}`;
}
window.addEventListener("error", (event) => fault(event.message));
window.addEventListener("unhandledrejection", (event) => fault(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => fault(`refused ${event.violatedDirective} ${event.blockedURI}`));

// The answer, or nothing; what is wrong is remembered.
async function ask(path) {
  try {
    const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), headers: { accept: "application/json" } });
    if (answer.status === 401) {
      location.replace("/login");
      return null;
    }
    if (!answer.ok) throw new Error(`edged answers ${answer.status}`);
    return await answer.json();
  } catch (error) {
    trouble = error.name === "TimeoutError" ? `no answer within ${PATIENCE / 1000} s` : error instanceof TypeError ? "no connection" : error.message;
    return null;
  }
}

async function load() {
  clearTimeout(next);
  const mine = ++asked;
  const name = current;
  const data = await ask(VIEWS[name].path());
  if (mine !== asked) return;
  if (data) {
    [seen, seenAt, trouble] = [Date.now(), data.at, ""];
    at("edge").textContent = data.edge;
    renew(at("worst"), [state(data.worst)]);
    document.title = `${data.worst === "up" ? "" : `${data.worst.toUpperCase()} · `}${data.edge} · ${VIEWS[name].title}`;
    const main = at("view");
    if (main.dataset.view !== name) main.replaceChildren();
    main.dataset.view = name;
    renew(main, VIEWS[name].show(data));
    VIEWS[name].shown?.();
  }
  tell();
  if (!paused) next = setTimeout(load, EVERY);
}

// How old what is shown is.
function tell() {
  const age = Date.now() - seen;
  const old = seen === 0 ? trouble !== "" : age > STALE;
  at("seen").textContent = seen === 0 ? "not seen yet" : `${paused ? "paused, " : ""}seen ${span(age / 1000)} ago`;
  at("seen").classList.toggle("old", old);
  document.body.classList.toggle("stale", old && !paused);
  at("stale").hidden = !old || paused;
  const text = seen === 0
    ? `edged does not answer: ${trouble}.`
    : `edged has not answered for ${span(age / 1000)}: ${trouble || "waiting"}. What you see was so at ${seenAt}.`;
  if (!at("stale").hidden && at("stale").textContent !== text) at("stale").textContent = text;
}

function route() {
  const name = location.hash.slice(2).split("?")[0];
  current = Object.hasOwn(VIEWS, name) ? name : "overview";
  for (const tab of at("tabs").children) {
    tab.dataset.name === current ? tab.setAttribute("aria-current", "page") : tab.removeAttribute("aria-current");
  }
  VIEWS[current].entered?.();
  load();
}

function pause() {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  at("pause").textContent = paused ? "Go on" : "Pause";
  paused ? clearTimeout(next) : load();
  tell();
}

function theme(change) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
    if (change) {
      kept = (kept ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
      localStorage.setItem("theme", kept);
    }
  } catch {
    // Without storage the choice lasts as long as the page.
    if (change) kept = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  }
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
}

Object.entries(VIEWS).forEach(([name, view], place) => {
  at("tabs").append(make("a", { href: `#/${name}`, "data-name": name, title: `${view.title} (${place + 1})` }, view.title));
});
const LEGEND = { down: "it serves nobody", degraded: "it serves, but less or other than configured", pending: "it will serve once something under way is done", up: "it serves as configured" };
for (const [name, text] of Object.entries(LEGEND)) at("legend").append(make("dt", {}, state(name)), make("dd", {}, text));
search(at("search"), at("hits"), ask);
at("pause").addEventListener("click", pause);
at("theme").addEventListener("click", () => theme(true));
at("help").addEventListener("click", () => at("keys").showModal());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
  if (event.target.closest?.("input, dialog")) return;
  const tab = at("tabs").children[Number(event.key) - 1];
  if (/^[1-9]$/.test(event.key) && tab) location.hash = tab.getAttribute("href");
  else if (event.key === "/") at("search").focus();
  else if (event.key === "?") at("keys").showModal();
  else if (event.key === "d") theme(true);
  else if (event.key === "p") pause();
  else if (VIEWS[current].keys?.[event.key]) VIEWS[current].keys[event.key]();
  else return;
  event.preventDefault();
});
window.addEventListener("hashchange", route);
window.addEventListener("edge:load", load);
document.addEventListener("visibilitychange", () => {
  // A page that nobody sees asks for nothing.
  if (document.visibilityState === "visible" && !paused) load();
  else clearTimeout(next);
});
setInterval(tell, 1000);
theme(false);
route();
