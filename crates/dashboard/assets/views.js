// What stands beside the picture: verdict, problems, services, events, failovers, risks, and the page of each thing.
import { $, ask, attr, clock, figure, flag, h, morph, plural, put, s, span, text, us } from "./dom.js";
import { age, cutOff, distanceAge, isServiceStale, isStale, model, nodeAge, now as clockNow, rate } from "./model.js";
import { charts, newest, want } from "./charts.js";
import { buttons, slotButtons } from "./actions.js";
import { kind, word } from "./picture.js";

const TONES = { redundant: "ok", degraded: "warn", down: "bad", online: "ok", drained: "warn", offline: "bad", serving: "ok", vacant: "bad", parked: "warn", frozen: "warn", unknown: "old" };
const KINDS = { active: "ok", standby: "ok", unready: "warn", starting: "warn", failed: "bad" };
const SEVERITY = { info: "calm", warning: "warn", error: "bad" };
const STEPS = { detected: "noticed", confirmed_dead: "old one is gone", claimed: "slot claimed, on disk", promoted: "promoted", routed: "clients go there", first_answer: "first answer" };

export const tag = (state, stale, tone) => h("span", { class: `tag${stale ? " stale" : ""}`, "data-tone": stale ? "old" : tone || TONES[state] || "old" }, stale && state !== "unknown" ? `${state}, old` : state);
/** Reckoned once a second; what is several beats old is not known to be so any more. */
const isFarOld = () => { const old = distanceAge(); return old !== null && old > 2 * model.staleAfter; };
const far = (service) => (service.state === "unknown" ? "old" : service.distance_to_outage === 0 ? "bad" : isFarOld() ? "old" : service.distance_to_outage === 1 ? "warn" : "ok");
/** By what, how many instances it would take, and how old that is. */
const farBy = (service) => {
  const outage = service.outage;
  if (!outage || service.distance_to_outage === 0) return "";
  const by = outage.by.length ? `by ${outage.by.join(" and ")}; ` : "";
  return `${by}${plural(outage.instances, "instance")}${isFarOld() ? `; ${span(distanceAge())} old` : ""}`;
};
const farWords = (n) => (n === 0 ? "0: down" : n === 1 ? "1: the next failure" : `${n} failures`);
const since = (at) => { const ms = clockNow() - new Date(at).getTime(); return Number.isFinite(ms) ? `${span(ms)}, since ${clock(at)}` : ""; };
const link = (what, name) => h("a", { href: `#/${what}/${name}` }, name);

/** What alone takes a service down: instance ids, and `node a`. From the analysis if there is one, else from the distance to outage. */
export function spofs() {
  const found = new Map();
  for (const risk of risks()) for (const part of risk.parts) found.set(part, risk);
  return found;
}

/** Single points of failure: `{ title, parts, services, fix, from }`. */
export function risks() {
  const analysis = model.analysis;
  const list = [];
  if (analysis) return analysis;
  for (const service of model.services.values()) {
    if ((service.outage ? service.outage.instances : service.distance_to_outage) !== 1) continue;
    const serving = service.slots.filter((slot) => slot.state === "serving" && slot.instance).map((slot) => slot.instance);
    const standby = service.standby === 0 ? `declare a standby: standby = 1 in [service.${service.name}]` : "it heals by itself if it can; its page says what keeps its standbys from being ready";
    list.push({ title: `${service.name}: the next failure of ${serving.length === 1 ? serving[0] : "an active"} takes it down`, parts: serving, services: [service.name], fix: standby });
  }
  const online = [...model.nodes.values()].filter((node) => node.state === "online");
  if (online.length === 1 && model.services.size) list.push({ title: `all is on node ${online[0].name}`, parts: [`node ${online[0].name}`], services: [...model.services.keys()], fix: "add a second machine: understudy cluster init, then cluster join" });
  return list;
}

/** What the analysis of this node says, if it makes one. */
export async function analyse() {
  try {
    const answer = await ask("/v1/analysis");
    model.analysis = readAnalysis(answer);
  } catch { model.analysis = null; model.survives = null; }
}

function readAnalysis(answer) {
  if (!answer || !Array.isArray(answer.spofs)) return null;
  model.survives = new Map((answer.services || []).map((service) => [service.name, service.survives || []]));
  // Marked where it is drawn: a process on its instance, what is on a node on the node.
  const bare = (one) => { const name = one.thing.split(" ").pop(); return one.kind === "process" ? name : ["voter", "proxy"].includes(one.kind) && model.nodes.has(name) ? `node ${name}` : one.thing; };
  return answer.spofs.map((one) => ({
    title: one.text, parts: [bare(one)], services: one.takes, seen: Boolean(one.observed),
    fix: one.fix ? one.fix.actions.join("; then ") + (one.fix.leaves && one.fix.leaves.length ? ` (${one.fix.leaves.join(", ")} would still be one)` : "") : "",
    why: [one.within ? `it is within ${one.within}` : "", one.behind && one.behind.length ? `with it go ${one.behind.slice(0, 12).join(", ")}` : ""].filter(Boolean).join("; "),
  }));
}

/** Before the first news nothing is known: neither that all is well nor that there is nothing. */
const isBlank = () => model.heard === null;
const blank = (more) => h("p", { class: "soft blank" }, `No data yet: this page waits for its first news from the agent${more || ""}.`);

/** What the parked slots of a service are called; nothing if it has none. */
export function parked(service) {
  const slots = service.slots.filter((slot) => slot.parked).map((slot) => slot.slot);
  return slots.length ? `${slots.length > 1 ? "slots" : "slot"} ${slots.length > 4 ? `${slots.slice(0, 3).join(", ")} and ${slots.length - 3} more` : slots.join(", ")} parked` : "";
}

export function verdict() {
  if (isBlank()) { morph($("verdict"), blank()); return; }
  const services = [...model.services.values()], count = (state) => services.filter((service) => service.state === state).length;
  const stale = !model.live || cutOff();
  const least = services.length ? Math.min(...services.map((service) => service.distance_to_outage)) : null;
  const online = [...model.nodes.values()].filter((node) => node.state === "online").length;
  const total = services.reduce((sum, service) => { const now = traffic(service.name); return { requests: sum.requests + (now ? now.requests : 0), errors: sum.errors + (now ? now.errors : 0), held: sum.held + ((now && now.held) || 0), all: sum.all || Boolean(now && now.all) }; }, { requests: 0, errors: 0, held: 0, all: false });
  const tile = (value, label, tone) => h("div", { class: "tile", "data-tone": stale ? "old" : tone }, h("b", null, value), h("span", null, label));
  const down = count("down"), degraded = count("degraded"), unknown = count("unknown");
  morph($("verdict"),
    tile(unknown ? `${unknown} not known` : down ? `${down} down` : degraded ? `${degraded} degraded` : services.length ? "all redundant" : "nothing runs", `of ${plural(services.length, "service")}`, down ? "bad" : degraded ? "warn" : services.length ? "ok" : "old"),
    tile(least === null ? "–" : String(least), least === 1 ? "failure to the first outage" : "failures to the first outage", least === 0 ? "bad" : least === 1 ? "warn" : "ok"),
    tile(`${online} of ${model.nodes.size}`, "nodes online", online === model.nodes.size ? "ok" : online * 2 > model.nodes.size ? "warn" : "bad"),
    tile(figure(total.requests), total.all ? "requests/s" : "requests/s, this node's proxy"),
    tile(errorWords(total), total.held ? "errors/s; who is held waits for an active" : "errors/s", total.errors > 0 ? "bad" : total.held ? "warn" : "ok"));
  flag($("verdict"), "stale", stale);
}

export function problems() {
  morph($("problems"), model.problems.map((problem) => {
    const tone = SEVERITY[problem.severity];
    return h("div", { class: "problem", "data-tone": tone }, tag(problem.severity, !model.live, tone), h("p", null, problem.text), h("span", { class: "since" }, since(problem.since)), h("p", null, problem.hint));
  }));
}

/** Requests and errors a second: of all nodes where they are measured, else of this node's proxy. */
export function traffic(name) {
  const requests = newest({ service: name, name: "requests_per_second" });
  if (!requests) { const own = rate(name); return own && { ...own, held: 0 }; }
  const errors = newest({ service: name, name: "errors_per_second" });
  const held = newest({ service: name, name: "held" });
  return { requests: requests.value, errors: errors ? errors.value : 0, held: held ? Math.round(held.value) : 0, all: true };
}

/** How many errors clients see: of those who wait for an active it is not known yet what they will be answered. */
export const errorWords = (now) => (now.held ? `${figure(now.errors)}, ${figure(now.held)} held` : figure(now.errors));

const rows = new Map();

export function services() {
  const table = $("services");
  if (!table.tHead) {
    table.append(h("thead", null, h("tr", null, ["Service", "State", "Distance to outage", "Actives, standbys", "Requests/s", "Errors/s", "p99 ms", "Since, because"].map((name, index) => h("th", { scope: "col", class: index > 3 && index < 7 ? "n" : null }, name)))), h("tbody"));
  }
  const body = table.tBodies[0];
  for (const [name, row] of rows) if (!model.services.has(name)) { row.line.remove(); rows.delete(name); }
  let before = null;
  for (const service of model.services.values()) {
    let row = rows.get(service.name);
    if (!row) {
      const cell = (label, type) => h("td", { class: type || null, "data-name": label });
      row = { name: h("th", { scope: "row" }, link("service", service.name)), state: cell(), far: cell("distance"), who: cell(), requests: cell("requests/s", "n"), errors: cell("errors/s", "n"), p99: cell("p99 ms", "n"), why: h("td", { class: "wide" }) };
      row.line = h("tr", { "data-service": service.name }, ...Object.values(row));
      rows.set(service.name, row);
    }
    const place = before ? before.nextSibling : body.firstChild;
    if (place !== row.line) body.insertBefore(row.line, place);
    before = row.line;
    const stale = isServiceStale(service);
    const minute = Math.floor(Date.now() / 5000);
    if (row.of === service && row.stale === stale && row.minute === minute && row.survives === model.survives) continue;
    Object.assign(row, { of: service, stale, minute, survives: model.survives });
    flag(row.line, "stale", stale);
    const unheld = parked(service);
    morph(row.state, tag(service.state, stale), unheld ? h("div", { class: "parked" }, tag(unheld, stale, "warn")) : null);
    morph(row.far, h("span", { class: "far", "data-tone": far(service) }, farWords(service.distance_to_outage)), h("div", { class: "since" }, farBy(service)), service.distance_to_outage ? survives(service.name) : null);
    const serving = service.slots.filter((slot) => slot.state === "serving").length, ready = service.failover_order.length;
    text(row.who, `${serving}/${service.active}\u00a0active, ${ready}/${service.standby}\u00a0standby, needs\u00a0${service.need}`);
    morph(row.why, h("span", null, service.because), h("br"), h("span", { class: "since" }, `${since(service.since)}`));
  }
  figures();
}

/** Of what kinds any one may fail, as the analysis has it. */
function survives(name) {
  const kinds = model.survives && model.survives.get(name);
  if (!kinds || !kinds.length) return null;
  const of = (any) => kinds.filter((one) => one.any === any).map((one) => one.kind).join("\u00a0or ");
  const lost = of(false), words = [of(true) && `outlives any ${of(true)}`, lost && `not every ${lost}`].filter(Boolean).join(", ");
  return h("div", { class: "since" }, words);
}

/** What changes each second in the lines of services. */
export function figures() {
  for (const [name, row] of rows) {
    const now = traffic(name), p99 = newest({ service: name, name: "latency_p99_ms" });
    const title = `${span(age())} ago`;
    const set = (cell, value, tone) => { text(cell, value); attr(cell, "title", title); attr(cell, "data-tone", tone); };
    set(row.requests, now ? figure(now.requests) : "–");
    set(row.errors, now ? errorWords(now) : "–", now && now.held ? "warn" : null);
    set(row.p99, p99 ? figure(p99.value) : "–");
    const service = model.services.get(name);
    if (service) flag(row.line, "stale", isServiceStale(service));
  }
}

const line = (event) => h("li", { "data-seq": event.seq }, h("time", { datetime: event.at }, clock(event.at, true)), tag(event.severity, false, SEVERITY[event.severity]), h("span", null, event.text, event.because ? h("span", { class: "why" }, `, because ${event.because}`) : null));

let told = null;

export function latest() {
  if (told === model.events) return;
  told = model.events;
  morph($("latest"), model.events.slice(-8).reverse().map(line));
}

export function events() {
  if (isBlank()) { morph($("event-list"), h("li", null, blank())); return; }
  const choose = $("event-service");
  const names = [...new Set(model.events.map((event) => event.service).filter(Boolean))].sort();
  if (choose.options.length !== names.length + 1) { const was = choose.value; put(choose, h("option", { value: "" }, "all"), names.map((name) => h("option", { value: name }, name))); choose.value = names.includes(was) ? was : ""; }
  const rank = { info: 0, warning: 1, error: 2 }, least = rank[$("event-severity").value], words = $("event-text").value.trim().toLowerCase();
  const wanted = model.events.filter((event) => (!choose.value || event.service === choose.value) && rank[event.severity] >= least && (!words || `${event.text} ${event.because} ${event.instance} ${event.node}`.toLowerCase().includes(words)));
  morph($("event-list"), wanted.slice(-300).reverse().map(line), wanted.length ? null : h("li", null, h("span", { class: "why" }, "nothing like that is known here")));
}

export function fall(event) {
  const failover = event.failover, total = Math.max(1, failover.total_us);
  const bars = failover.steps.map((step, index) => {
    const from = index ? failover.steps[index - 1].at_us : 0, length = step.at_us - from;
    return h("div", { class: "row" }, h("span", null, STEPS[step.step] || step.step), h("span", { class: "track" }, s("svg", { "aria-hidden": "true" }, s("rect", { x: `${(from * 100) / total}%`, width: `${Math.max(0.4, (length * 100) / total)}%`, height: 14, rx: 2 }))), h("span", null, index ? `+${us(length)}` : "0"));
  });
  return h("article", { class: "fall" }, h("h3", null, `${clock(event.at)} ${failover.planned ? "switchover" : "failover"} of `, link("service", failover.service), ` slot ${failover.slot}: ${failover.from === failover.to ? "back to" : `${failover.from || "nobody"} →`} ${failover.to}, epoch ${failover.epoch}, ${us(failover.total_us)}`), event.because ? h("p", { class: "soft" }, `because ${event.because}`) : null, bars);
}

export function failovers() {
  if (isBlank()) { morph($("waterfalls"), blank()); return; }
  const found = model.events.filter((event) => event.failover).slice(-50).reverse();
  morph($("waterfalls"), found.length ? found.map(fall) : h("p", { class: "soft" }, "No slot changed hands since the oldest event that is known here."));
}

export function riskView() {
  if (isBlank()) { morph($("risk-list"), blank()); return; }
  const found = risks();
  morph($("risk-list"),
    h("p", { class: "note" }, model.analysis ? "What alone takes a service down, and the least that would change it. They are marked with ! on the picture." : "This node has no analysis: these are the services that are one failure from an outage now. They are marked with ! on the picture."),
    found.length ? found.map((risk) => h("article", { class: "panel" }, h("h3", null, "! ", risk.title), h("p", null, "takes down: ", risk.services.map((name, index) => [index ? ", " : "", link("service", name)])), h("p", null, "what would remove it: ", risk.fix || "nothing that is known here"), risk.why ? h("p", { class: "soft" }, risk.why) : null)) : h("p", null, "Nothing alone takes a service down."));
}

const said = (lines) => h("ul", { class: "said" }, lines.map((one) => h("li", null, one)));
let shown = null;

/** The page of a service, an instance or a node. */
export function detail(what, name) {
  const host = $("detail");
  const head = h("div", { class: "detail-head" });
  const facts = h("div", { class: "panel" }), explained = h("div", { class: "panel", "aria-live": "off" }, h("h2", null, "Why, and what if"), h("p", { class: "soft" }, "asking…")), measured = h("div", { class: "charts" });
  put(host, head, h("div", { class: "cols" }, facts, explained), h("h3", null, "Measured"), measured);
  shown = { what, name, head, facts, explained, ifDies: "" };
  const of = what === "node" ? { node: name } : what === "service" ? { service: name } : { service: name.slice(0, name.lastIndexOf("-")), instance: name };
  want(of);
  put(measured, charts(of));
  redetail();
  explain();
}

/** Brings it up to date. */
export function redetail() {
  if (!shown) return;
  const { what, name, head, facts } = shown;
  if (isBlank()) { put(head, h("h2", null, `${what} ${name}`)); put(facts, blank()); return; }
  const page = what === "service" ? ofService(name) : what === "instance" ? ofInstance(name) : ofNode(name);
  if (!page) { put(head, h("h2", null, `${name} is not there any more`), h("p", null, h("a", { href: "#/overview" }, "back to the overview"))); put(facts); return; }
  morph(head, h("h2", null, `${what} ${name}`), page.tag, h("span", { class: "since" }, page.since), h("div", { class: "actions" }, buttons(what, name)));
  morph(facts, page.facts);
  flag(facts, "stale", page.stale);
}

function ofService(name) {
  const service = model.services.get(name);
  if (!service) return null;
  const stale = isServiceStale(service);
  const acts = model.viewer.may_act && service.slots.length > 1;
  const slots = h("table", { class: "slots" }, h("thead", null, h("tr", null, ["Slot", "State", "Held by", "Epoch", "Since, because"].map((one) => h("th", { scope: "col" }, one)), acts ? h("td") : null)), h("tbody", null, service.slots.map((slot) => h("tr", null, h("td", null, slot.slot), h("td", null, tag(slot.state, stale, TONES[slot.state] || "warn")), h("td", null, slot.instance ? [link("instance", slot.instance), slot.node ? ` on ${slot.node}` : ""] : "nobody"), h("td", { class: "n" }, slot.epoch), h("td", null, slot.because, h("br"), h("span", { class: "since" }, since(slot.since))), acts ? h("td", null, h("div", { class: "actions" }, slotButtons(service, slot))) : null))));
  const counted = (model.traffic.get(name) || {}).now || service.traffic;
  return { stale, tag: tag(service.state, stale), since: since(service.since), facts: [
    h("p", null, service.because),
    h("p", null, "distance to outage: ", h("span", { class: "far", "data-tone": far(service) }, farWords(service.distance_to_outage)), farBy(service) ? ` (${farBy(service)})` : "", `; ${service.need} of ${service.active} actives must serve`),
    service.listen ? h("p", null, "clients come to ", h("span", { class: "mono" }, service.listen), service.floating ? `, address ${service.floating.address} is on ${service.floating.node || "no node"}` : "") : h("p", null, "no clients through our proxy"),
    counted ? h("p", { class: "soft" }, `since this node's proxy started: ${figure(counted.requests)} requests, ${counted.held} held, ${counted.retried} repeated, ${counted.failed} failed, ${counted.errors} answered with an error; ${counted.open} open`) : null,
    h("h3", null, "Slots"), h("div", { class: "scroll" }, slots), h("h3", null, "Instances"), instances(service.instances),
    h("h3", null, "Failover order"), h("p", null, service.failover_order.length ? service.failover_order.join(", ") : "nobody could take over now"),
    h("h3", null, "Protection"), said(service.protection.split("; "))] };
}

function instances(list) {
  return h("div", { class: "scroll" }, h("table", null, h("tbody", null, list.slice(0, 200).map((instance) => { const stale = isStale(instance.node); return h("tr", { class: stale ? "stale" : null }, h("td", null, link("instance", instance.id)), h("td", null, tag(word(instance, false), stale, KINDS[kind(instance)])), h("td", null, link("node", instance.node)), h("td", { class: "since" }, since(instance.since))); }))), list.length > 200 ? h("p", { class: "soft" }, `and ${list.length - 200} more`) : null);
}

function ofInstance(name) {
  const known = model.instances.get(name);
  if (!known) return null;
  const { instance, service, slot } = known, stale = isStale(instance.node);
  return { stale, tag: tag(word(instance, false), stale, KINDS[kind(instance)]), since: since(instance.since), facts: [
    h("p", null, instance.because),
    h("p", null, "of service ", link("service", service.name), " on node ", link("node", instance.node), slot ? `, holds slot ${slot.slot} at epoch ${slot.epoch}` : ""),
    h("p", null, `health: ${instance.health}; state: ${instance.state}; ${instance.ready ? "could take over, or serves" : "could not take over now"}`),
    instance.address ? h("p", null, "listens at ", h("span", { class: "mono" }, instance.address)) : null,
    instance.pid ? h("p", null, `process ${instance.pid}, started again ${plural(instance.restarts, "time")}`) : null,
    instance.last_failure ? h("p", null, `last failure: ${instance.last_failure}`) : null,
    h("p", { class: "soft" }, `heard ${span(nodeAge(instance.node))} ago`),
    logs(name)] };
}

function logs(name) {
  if (!model.viewer.may_act) return null;
  const load = async () => {
    const mine = shown;
    try { const lines = await ask(`/v1/logs/${encodeURIComponent(name)}?lines=40`); mine.logs = lines.map((one) => one.line).join("\n") || "nothing yet"; } catch (error) { mine.logs = error.message; }
    if (mine === shown) redetail();
  };
  return [h("h3", null, "Output"), h("button", { type: "button", "data-action": "logs", onclick: load }, "Show the last lines"), shown.logs ? h("pre", { class: "mono scroll", tabindex: 0, id: "logs" }, shown.logs) : null];
}

function ofNode(name) {
  const node = model.nodes.get(name);
  if (!node) return null;
  const stale = isStale(name), here = [...model.instances.values()].map((known) => known.instance).filter((instance) => instance.node === name);
  return { stale, tag: tag(node.state, stale), since: since(node.since), facts: [
    h("p", null, node.because), h("p", null, `zone ${node.zone}; ${plural(here.length, "instance")}`), h("p", { class: "soft" }, `heard ${span(nodeAge(name))} ago`), h("h3", null, "Instances"), here.length ? instances(here) : h("p", { class: "soft" }, "nothing runs here")] };
}

/** Asks the agent why; again whenever something changed. */
export async function explain() {
  if (!shown) return;
  const mine = shown;
  const query = mine.ifDies ? `?if_dies=${encodeURIComponent(mine.ifDies)}` : "";
  let answer;
  try { answer = await ask(`/v1/explain/${encodeURIComponent(mine.name)}${query}`); } catch (error) {
    if (mine === shown) put(mine.explained, h("h2", null, "Why, and what if"), h("p", null, error.message));
    return;
  }
  if (mine !== shown) return;
  const choose = h("select", { id: "if-dies", onchange: (event) => { mine.ifDies = event.target.value; explain(); } }, h("option", { value: "" }, "nothing"), [...model.nodes.keys()].map((node) => h("option", { value: node, selected: node === mine.ifDies }, `node ${node}`)));
  morph(mine.explained, h("h2", null, "Why, and what if"), h("p", null, answer.summary), h("p", { class: "since" }, `asked ${clock(new Date().toISOString())}`),
    h("p", null, h("label", null, "What if this dies now: ", choose)),
    (answer.answers || []).filter((one) => one.question.startsWith("what if")).map((one) => [h("h3", null, one.question), said(one.lines)]),
    h("h3", null, "If it dies now"), said(answer.if_it_dies),
    (answer.answers || []).filter((one) => !one.question.startsWith("what if")).map((one) => [h("h3", null, one.question), said(one.lines)]),
    answer.events.length ? [h("h3", null, "What happened"), h("ol", { class: "log" }, answer.events.map(line))] : null);
}

export function leave() { shown = null; want(null); }
