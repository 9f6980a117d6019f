// The picture: clients come in at the left, nodes stand by zone at the right, and lines show who serves whom.
// What is drawn is kept by name; a change touches only what it is about. The layout is made anew when names come or go, or the width changes.
import { attr, clock, figure, flag, h, morph, s, span, text } from "./dom.js";
import { cutOff, isServiceStale, isStale, model, nodeAge, rate } from "./model.js";
import { parked, risks, spofs, traffic } from "./views.js";

const DOOR = { w: 196, h: 56, gap: 12 };
const CHIP = { w: 112, max: 150, h: 24, gap: 6 };
const DOT = 17;
const HEAD = 44, PAD = 10, GAP = 14, FLOW = 110;
const NARROW = 700;
/** More on one node are drawn as marks without names. */
const NAMED_MAX = 24;
/** As many nodes stand in one column. */
const ROWS_MAX = 6;
/** More lines than this are none that one can follow: they go to nodes instead. */
const LINES_MAX = 160, RUNNING_MAX = 60;
/** More single points of failure than this are not told beside the picture; their own page has all. */
const BESIDE_MAX = 8;

let drawn = null;

/** What an instance is, in one word; the shape and the legend follow it. */
export function kind(instance) {
  if (instance.state === "failed" || instance.health === "unhealthy") return "failed";
  if (["starting", "stopping", "waiting"].includes(instance.state)) return instance.state === "waiting" && instance.last_failure ? "failed" : "starting";
  if (instance.role === "active") return "active";
  return instance.ready ? "standby" : "unready";
}

export function word(instance, stale) {
  const kinds = { active: "active", standby: instance.state === "prepared" ? "cold standby, ready" : "standby, ready", unready: "standby, not ready", starting: instance.state, failed: instance.state === "failed" ? "failed, given up" : instance.health === "unhealthy" ? "failing its checks" : "waits to be started again" };
  return stale ? `${kinds[kind(instance)]} when last heard` : kinds[kind(instance)];
}

export function draw(host) {
  const width = Math.max(300, host.clientWidth || 900);
  const key = `${width}|${model.layout}`;
  if (!drawn || drawn.key !== key || drawn.host !== host) build(host, width, key);
  refresh();
}

function build(host, width, key) {
  const focused = document.activeElement && document.activeElement.closest && document.activeElement.closest("#picture a") ? document.activeElement.getAttribute("href") : null;
  const narrow = width < NARROW;
  const parts = { key, host, chips: new Map(), doors: new Map(), nodes: new Map(), flows: new Map(), zones: new Map(), narrow };
  const svg = s("svg", { role: "group", "aria-label": "Nodes with their instances, and where clients come in" });
  // Lines run above the frames of nodes and below what stands in them.
  const things = s("g"), flows = s("g", { "aria-hidden": "true" }), chips = s("g");
  svg.append(things, flows, chips);
  parts.chipLayer = chips;
  parts.flowLayer = flows;
  const doors = [...model.services.values()].filter((service) => service.listen);
  const left = narrow || !doors.length ? 0 : DOOR.w + FLOW;
  let doorY = 22;
  if (doors.length) things.append(s("text", { x: 2, y: 12, class: "soft" }, narrow ? "Clients come in here" : "Clients come in here (proxy)"));
  const perRow = narrow ? Math.max(1, Math.floor((width + DOOR.gap) / (DOOR.w + DOOR.gap))) : 1;
  const doorW = narrow ? (width - (perRow - 1) * DOOR.gap - 4) / perRow : DOOR.w;
  doors.forEach((service, index) => {
    const x = 2 + (index % perRow) * (doorW + DOOR.gap);
    const y = doorY + Math.floor(index / perRow) * (DOOR.h + DOOR.gap);
    parts.doors.set(service.name, door(service, x, y, doorW, things));
  });
  const doorsEnd = doors.length ? doorY + Math.ceil(doors.length / perRow) * (DOOR.h + DOOR.gap) : 0;
  const bottom = zones(parts, things, { x: left + 2, y: narrow ? doorsEnd + 10 : 0, width: width - left - 4 });
  const height = Math.max(bottom, doorsEnd) + 6;
  attr(svg, "viewBox", `0 0 ${width} ${height}`);
  attr(svg, "height", height);
  parts.beside = h("ul", { class: "beside", "aria-label": "Single points of failure that are no node, zone or instance of the picture" });
  host.replaceChildren(svg, parts.beside);
  drawn = parts;
  roving(host, focused);
}

function zones(parts, things, area) {
  const zones = new Map();
  for (const node of model.nodes.values()) zones.set(node.zone, [...(zones.get(node.zone) || []), node]);
  // A zone for each node says nothing that the node does not.
  const framed = [...zones.values()].some((nodes) => nodes.length > 1) || [...zones.keys()].some((zone) => !model.nodes.has(zone));
  const count = model.nodes.size || 1;
  // A few stand one above the other, so that lines reach each from the left.
  const columns = parts.narrow || count <= ROWS_MAX ? 1 : Math.max(1, Math.min(count, Math.floor((area.width + GAP) / (CHIP.w + CHIP.gap + 2 * PAD + GAP)), 4));
  const nodeW = (area.width - (columns - 1) * GAP - (framed ? 2 * PAD : 0)) / columns;
  let y = area.y;
  const place = (nodes, x, from) => {
    let row = from, tallest = 0;
    nodes.forEach((node, index) => {
      const column = index % columns;
      if (index && !column) { row += tallest + GAP; tallest = 0; }
      tallest = Math.max(tallest, nodeBox(parts, things, node, x + column * (nodeW + GAP), row, nodeW));
    });
    return row + tallest;
  };
  if (!framed) return place([...model.nodes.values()], area.x, y);
  for (const [zone, nodes] of [...zones].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const frame = s("rect", { class: "zone", x: area.x, y, width: area.width, rx: 10 });
    const label = s("text", { class: "soft strong", x: area.x + PAD, y: y + 17 }, `zone ${zone}`), alone = s("tspan", { class: "spof-word" });
    label.append(alone);
    parts.zones.set(zone, alone);
    things.append(frame, label);
    const end = place(nodes, area.x + PAD, y + 26);
    attr(frame, "height", end - y + PAD);
    y = end + PAD + GAP;
  }
  return y - GAP;
}

function door(service, x, y, w, things) {
  const name = s("text", { class: "strong", x: x + 14, y: y + 18 }), where = s("text", { class: "soft mono", x: x + 14, y: y + 34 }), rates = s("text", { class: "soft", x: x + 14, y: y + 49 });
  const link = s("a", { href: `#/service/${service.name}`, class: "door" }, s("rect", { class: "box", x, y, width: w, height: DOOR.h, rx: 7 }), s("rect", { class: "edge", x, y, width: 6, height: DOOR.h, rx: 3 }), name, where, rates, s("rect", { class: "ring", x, y, width: w, height: DOOR.h, rx: 7 }));
  things.append(link);
  return { link, name, where, rates, x: x + w, y: y + DOOR.h / 2 };
}

function nodeBox(parts, things, node, x, y, w) {
  const here = [...model.instances.values()].map((known) => known.instance).filter((instance) => instance.node === node.name);
  const named = here.length <= NAMED_MAX;
  const columns = Math.max(1, named ? Math.floor((w - 2 * PAD + CHIP.gap) / (CHIP.w + CHIP.gap)) : Math.floor((w - 2 * PAD) / DOT));
  const chipW = named ? Math.min(CHIP.max, (w - 2 * PAD - (columns - 1) * CHIP.gap) / columns) : DOT;
  const rows = Math.max(1, Math.ceil(here.length / columns));
  const height = HEAD + rows * (named ? CHIP.h + CHIP.gap : DOT) + PAD;
  const title = s("text", { class: "strong", x: x + PAD, y: y + 18 }, node.name), state = s("text", { class: "word soft", x: x + PAD, y: y + 34 }), seen = s("text", { class: "soft", x: x + w - PAD, y: y + 18, "text-anchor": "end" });
  const spof = s("text", { class: "spof", x: x + w - PAD, y: y + 34, "text-anchor": "end" }, "! single point");
  const about = s("title");
  const link = s("a", { href: `#/node/${node.name}` }, about, s("rect", { class: "frame", x, y, width: w, height, rx: 9 }), s("rect", { class: "ring", x, y, width: w, height, rx: 9 }), title, state, seen);
  const group = s("g", { class: "node" }, link, spof);
  things.append(group);
  parts.nodes.set(node.name, { group, link, title: about, state, seen, x, y: y + 26, fits: Math.floor((w - 2 * PAD) / 7.4) });
  here.forEach((instance, index) => {
    const cx = x + PAD + (index % columns) * (named ? chipW + CHIP.gap : DOT);
    const cy = y + HEAD + Math.floor(index / columns) * (named ? CHIP.h + CHIP.gap : DOT);
    const part = chip(instance, cx, cy, chipW, named, parts.chipLayer);
    // Who does not stand first is reached from below: a line across the others would seem to end at them.
    if (named && index % columns) part.lane = { from: x, y: cy + CHIP.h + CHIP.gap / 2, to: cx + chipW / 2, up: cy + CHIP.h };
    parts.chips.set(instance.id, part);
  });
  return height;
}

function chip(instance, x, y, w, named, group) {
  const shape = s("path", { class: "shape" }), title = s("title"), label = named ? s("text", { x: x + 24, y: y + 16.5 }, instance.id) : null;
  const spof = s("text", { class: "spof", x: named ? x + w - 10 : x + 9, y: named ? y + 17 : y + 8 }, "!");
  const size = named ? [w, CHIP.h] : [DOT - 2, DOT - 2];
  const link = s("a", { href: `#/instance/${instance.id}`, class: "chip" }, title, named ? s("rect", { class: "box", x, y, width: size[0], height: size[1], rx: 5 }) : null, shape, label, spof, s("rect", { class: "ring", x, y, width: size[0], height: size[1], rx: 4 }));
  group.append(link);
  return { link, shape, title, is: null, cx: x + (named ? 13 : 7.5), cy: y + (named ? CHIP.h / 2 : 7.5), x, y: y + size[1] / 2 };
}

/** As much of a line as there is room for. */
const clip = (words, fits) => (words.length > fits ? `${words.slice(0, Math.max(1, fits - 1))}…` : words);

/** Circle, ring, triangle, cross: told apart without colours. */
function outline(is, x, y) {
  if (is === "starting") return `M${x} ${y - 5.5}L${x + 6} ${y + 5}H${x - 6}Z`;
  if (is === "failed") return `M${x - 5} ${y - 5}L${x + 5} ${y + 5}M${x + 5} ${y - 5}L${x - 5} ${y + 5}`;
  return `M${x - 5.5} ${y}a5.5 5.5 0 1 0 11 0a5.5 5.5 0 1 0 -11 0Z`;
}

/** Brings what is drawn up to date. */
export function refresh() {
  if (!drawn) return;
  const single = spofs();
  for (const [id, part] of drawn.chips) {
    const known = model.instances.get(id);
    if (!known) continue;
    const stale = isStale(known.instance.node), alone = single.has(id);
    if (part.of === known && part.stale === stale && part.alone === alone) continue;
    Object.assign(part, { of: known, stale, alone });
    const is = kind(known.instance);
    if (part.is !== is) { part.is = is; attr(part.link, "data-is", is); attr(part.shape, "d", outline(is, part.cx, part.cy)); }
    flag(part.link, "stale", stale);
    attr(part.link, "data-spof", single.has(id) ? 1 : null);
    const words = `${id}, ${word(known.instance, stale)}${known.slot ? `, slot ${known.slot.slot}, epoch ${known.slot.epoch}` : ""}${alone ? ", single point of failure" : ""}`;
    text(part.title, `${words}. ${known.instance.because}${alone && single.get(id).fix ? `. What would remove it as a single point of failure: ${single.get(id).fix}` : ""}`);
    attr(part.link, "aria-label", words);
  }
  for (const [name, part] of drawn.nodes) {
    const node = model.nodes.get(name);
    if (!node) continue;
    const stale = isStale(name);
    attr(part.group, "data-state", node.state);
    flag(part.group, "stale", stale);
    attr(part.group, "data-spof", single.has(`node ${name}`) ? 1 : null);
    const away = node.state === "online" ? "" : ` since ${clock(node.since)}: ${node.because}`;
    text(part.state, stale && node.state === "online" ? "no news" : clip(`${node.state}${away}`, part.fits));
    const alone = single.get(`node ${name}`);
    text(part.title, alone ? `single point of failure. ${alone.title}. What would remove it: ${alone.fix || "nothing that is known here"}` : "");
    attr(part.link, "aria-label", `node ${name}, ${node.state}${stale ? ", no news" : ""}${alone ? ", single point of failure" : ""}`);
  }
  for (const [zone, alone] of drawn.zones) {
    const risk = single.get(`zone ${zone}`);
    text(alone, risk ? `  ! single point; what would remove it: ${risk.fix || "nothing that is known here"}` : "");
  }
  for (const [name, part] of drawn.doors) {
    const service = model.services.get(name);
    if (!service) continue;
    const stale = isServiceStale(service), then = stale && service.state !== "unknown" ? " when last heard" : "";
    if (part.of === service && part.stale === stale) continue;
    Object.assign(part, { of: service, stale });
    attr(part.link, "data-tone", { redundant: "ok", degraded: "warn", down: "bad", unknown: "old" }[service.state]);
    flag(part.link, "stale", stale);
    const unheld = parked(service) ? " · parked" : "";
    attr(part.link, "data-parked", unheld ? 1 : null);
    text(part.name, `${name} · ${service.state}${unheld}${then}`);
    text(part.where, service.listen);
    attr(part.link, "aria-label", `service ${name} at ${service.listen}, ${service.state}${unheld ? `, ${parked(service)}` : ""}${then}`);
  }
  beside();
  flow();
  ages();
}

/** What alone takes a service down and is nowhere in the picture: power, switches, machines, disks, externals, software, wider zones. */
function beside() {
  const isDrawn = (part) => drawn.chips.has(part) || (part.startsWith("node ") && drawn.nodes.has(part.slice(5))) || (part.startsWith("zone ") && drawn.zones.has(part.slice(5)));
  const list = risks().filter((risk) => !risk.parts.some(isDrawn));
  const more = list.length - BESIDE_MAX;
  const line = (risk) => h("li", { "data-thing": risk.parts[0] || risk.title }, h("b", null, `! ${risk.parts[0] || risk.title}`), risk.seen ? h("span", { class: "seen" }, " (seen by agents, declared nowhere)") : null, ` takes ${names(risk.services)} down. What would remove it: ${risk.fix || "nothing that is known here"}.`);
  morph(drawn.beside, list.slice(0, BESIDE_MAX).map(line), more > 0 ? h("li", null, `and ${more} more, under Risks`) : null);
  flag(drawn.beside, "none", !list.length);
}

const names = (services) => (services.length > 4 ? `${services.slice(0, 3).join(", ")} and ${services.length - 3} more` : services.join(" and "));

/** The figures that grow older by themselves. */
export function ages() {
  if (!drawn) return;
  for (const [name, part] of drawn.nodes) {
    const node = model.nodes.get(name);
    if (!node) continue;
    text(part.seen, node && node.state !== "offline" ? `${span(nodeAge(name))} ago` : "");
    flag(part.group, "stale", isStale(name));
  }
  for (const [name, part] of drawn.doors) {
    const now = traffic(name);
    text(part.rates, now ? `${figure(now.requests)}/s, ${now.held ? `${figure(now.held)} held, ` : ""}${figure(now.errors)} errors/s` : "no traffic seen here");
  }
}

/** From each door to those who serve behind it. */
function flow() {
  if (drawn.narrow) return;
  // Lines follow slots; while none changed hands they stay.
  const fresh = `${model.turn}|${model.live}|${[...model.nodes.keys()].map(isStale).join()}|${cutOff()}`;
  if (drawn.fresh === fresh) return;
  drawn.fresh = fresh;
  const wanted = new Map();
  for (const service of model.services.values()) {
    const from = drawn.doors.get(service.name);
    if (!from) continue;
    for (const slot of service.slots) {
      if (slot.state !== "serving" || !slot.instance) continue;
      const to = drawn.chips.get(slot.instance), known = model.instances.get(slot.instance);
      if (to && known) wanted.set(`${service.name}>${slot.instance}`, { from, to, service: service.name, node: known.instance.node });
    }
  }
  let lines = wanted;
  if (wanted.size > LINES_MAX) {
    lines = new Map();
    for (const line of wanted.values()) lines.set(`${line.service}>${line.node}`, { ...line, to: drawn.nodes.get(line.node) });
    if (lines.size > LINES_MAX) lines = new Map([...lines].slice(0, LINES_MAX));
  }
  for (const [key, path] of drawn.flows) if (!lines.has(key)) { path.remove(); drawn.flows.delete(key); }
  for (const [key, line] of lines) {
    let path = drawn.flows.get(key);
    if (!path) { path = s("path", { class: "flow" }); drawn.flows.set(key, path); drawn.flowLayer.append(path); }
    const { lane } = line.to, x = lane ? lane.from : line.to.x, y = lane ? lane.y : line.to.y;
    const bend = Math.max(40, (x - line.from.x) / 2);
    const along = lane ? `H${lane.to - 5}Q${lane.to} ${y} ${lane.to} ${lane.up}` : "";
    attr(path, "d", `M${line.from.x} ${line.from.y}C${line.from.x + bend} ${line.from.y} ${x - bend} ${y} ${x} ${y}${along}`);
    const now = rate(line.service), stale = isStale(line.node) || cutOff();
    flag(path, "stale", stale);
    flag(path, "runs", !stale && lines.size <= RUNNING_MAX && now !== null && now.requests > 0);
  }
}

/** One stop for Tab; arrows go on from there. */
function roving(host, focused) {
  const links = [...host.querySelectorAll("a")];
  const at = Math.max(0, links.findIndex((link) => link.getAttribute("href") === focused));
  links.forEach((link, index) => link.setAttribute("tabindex", index === at ? 0 : -1));
  if (focused && links[at]) links[at].focus({ preventScroll: true });
}

/** Moves the focus within the picture; whether it did. */
export function step(by) {
  const links = drawn ? [...drawn.host.querySelectorAll("a")] : [];
  const at = links.indexOf(document.activeElement);
  if (at < 0) return false;
  const next = links[(at + by + links.length) % links.length];
  links[at].setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus();
  return true;
}
