// The search box: a combobox whose hits lead into the map.
import { count, make, state } from "./make.js";

export function search(field, list, ask) {
  let hits = [];
  let at = -1;
  let waiting = 0;
  let asked = 0;

  function close() {
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
    at = -1;
  }

  function mark(place) {
    at = place;
    [...list.querySelectorAll("[role=option]")].forEach((option, index) => {
      option.setAttribute("aria-selected", index === at ? "true" : "false");
      if (index === at) {
        option.scrollIntoView({ block: "nearest" });
        field.setAttribute("aria-activedescendant", option.id);
      }
    });
  }

  function open(place) {
    const hit = hits[place];
    if (!hit) return;
    const way = { [hit.kind]: hit.id, ...(hit.of ? { backend: hit.of } : {}) };
    close();
    field.blur();
    location.hash = `#/map?${new URLSearchParams(way)}`;
  }

  function show(found) {
    hits = found.hits;
    const options = hits.map((hit, place) =>
      make("li", { role: "option", id: `hit-${place}`, "aria-selected": "false", onmousedown: (event) => { event.preventDefault(); open(place); } },
        state(hit.state, ""), make("span", { class: "kind" }, hit.kind), make("span", { class: "name" }, hit.title), make("span", { class: "dim" }, hit.detail)));
    if (found.more) options.push(make("li", { class: "empty" }, `${count(found.more)} more: say more of the name`));
    if (hits.length === 0) options.push(make("li", { class: "empty" }, "nothing has that in its name, host or address"));
    list.replaceChildren(...options);
    list.hidden = false;
    field.setAttribute("aria-expanded", "true");
    if (hits.length) mark(0);
  }

  field.addEventListener("input", () => {
    clearTimeout(waiting);
    const text = field.value.trim();
    if (!text) return close();
    waiting = setTimeout(async () => {
      const mine = ++asked;
      const found = await ask(`/api/search?${new URLSearchParams({ q: text })}`);
      if (found && mine === asked && field.value.trim() === text) show(found);
    }, 120);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && hits.length) mark((at + 1) % hits.length);
    else if (event.key === "ArrowUp" && hits.length) mark((at + hits.length - 1) % hits.length);
    else if (event.key === "Enter") open(Math.max(0, at));
    else if (event.key === "Escape") { close(); field.value = ""; field.blur(); }
    else return;
    event.preventDefault();
  });
  field.addEventListener("blur", close);
}
