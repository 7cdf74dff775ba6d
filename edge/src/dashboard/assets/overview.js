// Problems first, then how much passes, then what there is.
import { STATES, count, day, draw, health, latency, link, make, panel, rate, since, span, state, table } from "./make.js";

const KINDS = [["vip", "VIPs"], ["listener", "Listeners"], ["certificate", "Certificates"], ["route", "Routes"], ["backend", "Backends"], ["peer", "BGP sessions"]];

export const view = {
  title: "Overview",
  path: () => "/api/overview",
  show(data) {
    return [
      make("div", { class: "tiles" },
        tile("Requests", `${rate(data.total.requests)}`, "/s", data.points, (point) => point.requests),
        tile("Errors (5xx)", `${rate(data.total.errors)}`, "/s", data.points, (point) => point.errors, data.total.errors > 0),
        tile("Latency p99", latency(data.total.p99), `p50 ${latency(data.total.p50)}`, data.points, (point) => point.p99 ?? 0),
        tile("Connections", count(data.total.connections), "open", data.points, (point) => point.connections ?? 0)),
      make("div", { class: "wide-left" }, troubles(data), inventory(data)),
      make("div", { class: "halves" }, vips(data), sessions(data)),
      make("div", { class: "halves" }, certificates(data), endpoints(data)),
      daemon(data),
    ];
  },
};

function tile(title, value, unit, points, of, alarm = false) {
  return make("section", { class: alarm ? "tile alarm" : "tile" },
    make("h2", {}, title), make("p", {}, make("strong", {}, value), " ", make("span", { class: "unit" }, unit)), spark(title, points, of));
}

function spark(title, points, of) {
  const values = points.map(of);
  const most = Math.max(...values, 0);
  const [width, height] = [240, 36];
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}, the last ten minutes` });
  if (values.length > 1) {
    const x = (place) => width - (values.length - 1 - place) * (width / 119);
    const y = (value) => height - 2 - (most > 0 ? (value / most) * (height - 6) : 0);
    const line = values.map((value, place) => `${x(place).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    picture.append(
      draw("polygon", { class: "area", points: `${x(0).toFixed(1)},${height} ${line} ${width},${height}` }),
      draw("polyline", { class: "line", points: line, "vector-effect": "non-scaling-stroke" }));
  }
  return picture;
}

function troubles(data) {
  const { listed, more, states } = data.troubles;
  const bad = states[0] + states[1] + states[2];
  const rows = listed.map((one) =>
    make("li", { class: `trouble ${one.state}` },
      state(one.state),
      make("span", { class: "kind" }, one.count > 1 ? `${count(one.count)} ${one.kind}s` : one.kind),
      make("span", { class: "what" }, one.names.flatMap((name, place) => [place ? ", " : "", named(one.kind, name)]),
        one.count > one.names.length ? ` and ${count(one.count - one.names.length)} more` : ""),
      make("span", { class: "reason" }, one.reason)));
  const findings = data.problems.errors + data.problems.warnings;
  const note = [bad === 0 ? "everything is up" : `${count(bad)} not up`, `${count(findings)} finding${findings === 1 ? "" : "s"} in the configuration`].join(", ");
  return panel("Problems", make("a", { href: "#/findings" }, note),
    rows.length ? make("ul", { class: "troubles" }, rows) : make("p", { class: "empty good" }, state("up", "nothing to do")),
    more ? make("p", { class: "empty" }, `and ${count(more)} more reasons; the map shows all`) : "");
}

function named(kind, name) {
  return ["vip", "listener", "route", "backend", "certificate"].includes(kind) ? link(name, { [kind]: name }) : name;
}

function inventory(data) {
  const rows = KINDS.filter(([kind]) => data.counts[kind]?.some((number) => number > 0));
  return panel("What there is", "", table("Objects by state",
    [["", ([kind, title]) => kind === "peer" ? make("a", { href: "#/announcements" }, title) : title, "name"],
      ...STATES.map((name, place) => [state(name), ([kind]) => number(data.counts[kind][place], name), "number"])],
    rows, "nothing is configured"));
}

function number(value, name) {
  return value === 0 ? make("span", { class: "none" }, "0") : make("strong", { class: `state ${name}` }, count(value));
}

function vips(data) {
  return panel("VIPs", `${count(data.vips.length)}`, table("VIPs", [
    ["State", (row) => state(row.state)],
    ["Address", (row) => link(row.title, { vip: row.id }), "mono"],
    ["Owner", (row) => make("span", {}, row.detail, row.reason ? make("span", { class: "reason" }, row.reason) : "")],
    ["Req/s", (row) => rate(row.rate?.requests), "number"],
    ["Err/s", (row) => rate(row.rate?.errors), "number"],
    ["p99", (row) => latency(row.rate?.p99), "number"],
    ["Conns", (row) => count(row.rate?.connections), "number"],
  ], data.vips, "no Gateway or Service has an address"));
}

export function sessionColumns(now) {
  return [
    ["State", (row) => state(row.state)],
    ["Peer", (row) => make("span", {}, row.peer, make("span", { class: "dim mono" }, ` ${row.address}`), row.reason ? make("span", { class: "reason" }, row.reason) : "")],
    ["AS", (row) => row.asn ?? "–", "number"],
    ["Session", (row) => `${row.session} ${since(row.since, now)}`],
    ["BFD", (row) => row.bfd ?? "–"],
    ["Told", (row) => count(row.advertised), "number"],
    ["Flaps", (row) => count(row.flaps), "number"],
  ];
}

export function routerColumns(now) {
  return [
    ["State", (row) => state(row.state)],
    ["Router", (row) => make("span", {}, `${row.group} ${row.family}, VRID ${row.router} on ${row.interface}`, row.reason ? make("span", { class: "reason" }, row.reason) : "")],
    ["Role", (row) => make("strong", {}, row.role)],
    ["Since", (row) => since(row.since, now)],
    ["Leader", (row) => row.leader ?? (row.is_held ? "this edge" : "–"), "mono"],
  ];
}

function sessions(data) {
  const now = Date.parse(data.at);
  const parts = [];
  if (data.sessions.length) parts.push(table("BGP sessions", sessionColumns(now), data.sessions, ""));
  if (data.routers.length) parts.push(table("Virtual routers", routerColumns(now), data.routers, ""));
  if (data.fleet) {
    parts.push(table("Edges", [
      ["State", (row) => state(row.state)],
      ["Edge", (row) => make("span", {}, row.edge, row.orders ? make("span", { class: "dim" }, " orders certificates") : "", row.reason ? make("span", { class: "reason" }, row.reason) : "")],
      ["Version", (row) => row.version ?? "–"],
      ["Answered", (row) => row.last_exchange ? `${since(row.last_exchange, now)} ago` : "this edge"],
    ], data.fleet.edges, ""));
  }
  return panel("Announcements and edges", make("a", { href: "#/announcements" }, "per VIP and peer"),
    ...(parts.length ? parts : [make("p", { class: "empty" }, "nothing is announced: edge.toml has neither [bgp] nor [l2]")]));
}

export function left(row) {
  if (row.seconds_left === null || row.seconds_left === undefined) return "–";
  return row.seconds_left < 0 ? `ended ${span(-row.seconds_left)} ago` : span(row.seconds_left);
}

function certificates(data) {
  return panel("Certificates, the most pressing first", make("a", { href: "#/certificates" }, "calendar"), table("Certificates", [
    ["State", (row) => state(row.state)],
    ["Certificate", (row) => make("span", {}, link(row.certificate, { certificate: row.certificate }), row.reason ? make("span", { class: "reason" }, row.reason) : "")],
    ["Left", (row) => left(row), "number"],
    ["Renewed", (row) => day(row.renews_at), "number"],
  ], data.certificates, "no listener asks for one"));
}

function endpoints(data) {
  const rows = data.endpoints.shown;
  return panel("Endpoints out of service", data.endpoints.total > rows.length ? `${count(rows.length)} of ${count(data.endpoints.total)}` : count(rows.length),
    table("Endpoints", [
      ["State", (row) => state(row.state)],
      ["Endpoint", (row) => make("span", {}, link(row.address, { endpoint: row.address, backend: row.backend }), make("span", { class: "dim" }, ` ${row.target ?? ""} ${row.node ?? ""}`), make("span", { class: "reason" }, row.reason))],
      ["Backend", (row) => link(row.backend, { backend: row.backend })],
    ], rows, "every endpoint takes new work"),
    data.orders.length ? make("ul", { class: "orders" }, data.orders.map((line) => make("li", {}, line))) : "");
}

function daemon(data) {
  const it = data.daemon;
  return panel("edged", "", make("p", { class: "daemon" }, health(it)),
    make("dl", { class: "facts" },
      ...[["version", it.version], ["generation", `${it.generation}, since ${it.since}`], ["running for", span(it.uptime_seconds)],
        ["workers", `${it.acknowledged} of ${it.workers} serve it`],
        ...it.sources.map((source) => ["source", `${source.name}: ${source.reason || source.state}`]),
        ...it.notices.map((notice) => ["notice", notice])]
        .map(([about, text]) => make("div", {}, make("dt", {}, about), make("dd", {}, String(text))))));
}
