// Announcements, the calendar of certificates, and findings: long lists, a page at a time.
import { count, day, draw, link, make, panel, state, table } from "./make.js";
import { left, routerColumns, sessionColumns } from "./overview.js";

const PAGE = 100;

function words() {
  return new URLSearchParams(location.hash.split("?")[1] ?? "");
}

function path(name) {
  return () => `/api/${name}?${words()}`;
}

function go(name, change) {
  const next = words();
  change(next);
  history.replaceState(null, "", `#/${name}?${next}`);
  window.dispatchEvent(new CustomEvent("edge:load"));
}

let waiting = 0;
function filters(name, label) {
  const typed = (event) => {
    const text = event.target.value;
    clearTimeout(waiting);
    waiting = setTimeout(() => go(name, (next) => {
      next.delete("from");
      text.trim() ? next.set("q", text.trim()) : next.delete("q");
    }), 200);
  };
  return make("div", { class: "filters" },
    make("input", { type: "search", "data-own": "q", id: `filter-${name}`, "aria-label": label, placeholder: label, value: words().get("q") ?? "", spellcheck: "false", autocomplete: "off", oninput: typed }));
}

function pages(name, page) {
  if (page.total <= PAGE) return make("div", { class: "pages" });
  const to = Math.min(page.total, page.from + PAGE);
  const turn = (from) => () => go(name, (next) => next.set("from", String(Math.max(0, from))));
  return make("div", { class: "pages", "data-own": `${page.from}` },
    make("button", { type: "button", disabled: page.from === 0, onclick: turn(page.from - PAGE), "aria-label": "before" }, "‹"),
    make("span", {}, `${count(page.from + 1)}–${count(to)} of ${count(page.total)}`),
    make("button", { type: "button", disabled: to >= page.total, onclick: turn(page.from + PAGE), "aria-label": "after" }, "›"));
}

export const announcements = {
  title: "Announcements",
  path: path("announcements"),
  show(data) {
    const now = Date.parse(data.at);
    const told = (row) => make("ul", { class: "told" },
      row.peers.map((peer) => make("li", {}, state(peer.told ? "up" : peer.state === "up" ? "pending" : peer.state, ""), `${peer.peer} `,
        make("span", { class: "dim" }, peer.told ? `told ${peer.told.prefix} since ${peer.told.since}${peer.told.communities.length ? ` with ${peer.told.communities.join(" ")}` : ""}` : peer.reason || "not told"))),
      row.elections.map((one) => make("li", {}, state(one.state, ""), `${one.family} router ${one.router} on ${one.interface} `,
        make("span", { class: "dim" }, `${one.role}: ${one.because}`))));
    return [
      filters("announcements", "Filter VIPs by address or owner"),
      panel("BGP sessions", "", table("BGP sessions", sessionColumns(now), data.sessions, "edge.toml has no [bgp]")),
      panel("Virtual routers (ARP and NDP)", "", table("Virtual routers", routerColumns(now), data.routers, "edge.toml has no [l2]")),
      panel("Who was told of each VIP", "adj-out, never an intention", table("VIPs", [
        ["State", (row) => state(row.state)],
        ["VIP", (row) => make("span", {}, link(row.address, { vip: row.address }), make("span", { class: "dim" }, ` ${row.owners.join(", ")}`), row.reason ? make("span", { class: "reason" }, row.reason) : "")],
        ["Told", told],
        ["", (row) => make("code", {}, `edgectl why ${row.address}`)],
      ], data.vips.rows, "no VIP has an address"), pages("announcements", data.vips)),
    ];
  },
};

export const certificates = {
  title: "Certificates",
  path: path("certificates"),
  show(data) {
    return [
      panel("The next thirteen weeks", "renewals above, ends below the line", calendar(data)),
      filters("certificates", "Filter by certificate or host name"),
      panel("Certificates, the most pressing first", data.orders ? `${data.orders} orders` : "", table("Certificates", [
        ["State", (row) => state(row.state)],
        ["Certificate", (row) => make("span", {}, link(row.certificate, { certificate: row.certificate }), make("span", { class: "dim" }, ` ${row.names.slice(0, 3).join(", ")}${row.names.length > 3 ? ` and ${row.names.length - 3} more` : ""}`), row.reason ? make("span", { class: "reason" }, row.reason) : "")],
        ["Serves", (row) => row.served.replace("-", " ")],
        ["Issuer", (row) => row.issued_by ?? (row.issuers.join(", else ") || "Secret")],
        ["Left", (row) => left(row), "number"],
        ["Ends", (row) => day(row.not_after), "number"],
        ["Renewed", (row) => day(row.renews_at), "number"],
        ["Step", (row) => row.failures ? `${row.step}, ${row.failures} failed` : row.step],
      ], data.certificates.rows, "no listener asks for one"), pages("certificates", data.certificates)),
    ];
  },
};

function calendar(data) {
  const most = Math.max(1, ...data.renewals, ...data.ends);
  const [width, middle] = [11, 46];
  const days = data.renewals.length;
  const picture = draw("svg", { viewBox: `0 0 ${days * width} 104`, class: "calendar", role: "img", "aria-label": calendarText(data) });
  const start = Date.parse(data.at);
  for (let at = 0; at < days; at += 1) {
    const date = new Date(start + at * 86_400_000);
    const x = at * width;
    if (date.getUTCDay() === 1) {
      picture.append(draw("line", { class: "week", x1: x, x2: x, y1: 4, y2: 88 }));
      const text = draw("text", { x: x + 2, y: 101 });
      text.textContent = date.toISOString().slice(5, 10);
      picture.append(text);
    }
    const bar = (value, kind) => {
      if (!value) return;
      const height = Math.max(4, (value / most) * 40);
      const rect = draw("rect", { class: kind, x: x + 1, width: width - 2, y: kind === "renewal" ? middle - height : middle + 1, height, rx: 1 });
      const title = draw("title");
      title.textContent = `${date.toISOString().slice(0, 10)}: ${value} ${kind === "renewal" ? "renewed" : value === 1 ? "ends" : "end"}`;
      rect.append(title);
      picture.append(rect);
    };
    bar(data.renewals[at], "renewal");
    bar(data.ends[at], "end");
  }
  picture.append(draw("line", { class: "axis", x1: 0, x2: days * width, y1: middle + 0.5, y2: middle + 0.5 }));
  return make("div", { class: "scroll" }, picture);
}

function calendarText(data) {
  const sum = (all) => all.reduce((one, other) => one + other, 0);
  return `${sum(data.renewals)} renewals and ${sum(data.ends)} ends in the next thirteen weeks`;
}

const SEVERITY = { error: "down", warning: "degraded", inert: "pending" };

export const findings = {
  title: "Findings",
  path: path("findings"),
  show(data) {
    const { errors, warnings, inert } = data.problems;
    return [
      filters("findings", "Filter by object, file or text"),
      panel("Findings in the configuration", `${count(errors)} errors, ${count(warnings)} warnings, ${count(inert)} fields without effect`, table("Findings", [
        ["Severity", (row) => state(SEVERITY[row.severity] ?? "pending", row.severity)],
        ["Object", (row) => row.object],
        ["What", (row) => row.message, "reason"],
        ["Where", (row) => row.place, "mono dim"],
      ], data.findings.rows, "nothing is wrong with it"), pages("findings", data.findings)),
    ];
  },
};
