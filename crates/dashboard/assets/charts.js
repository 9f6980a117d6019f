// Live charts. An hour of history comes from the agent if it keeps one; what it does not keep, the page gathers while it is open.
import { $, attr, ask, clock, figure, h, put, text } from "./dom.js";
import { age, model, now as clockNow } from "./model.js";

const HISTORY = "/v1/series";
const STEP = 1000, HOUR = 3600;
const CHARTS = [
  { title: "Requests", unit: "/s", lines: [["requests_per_second", "requests"]] },
  { title: "Errors", unit: "/s", lines: [["errors_per_second", "errors"]] },
  { title: "Latency", unit: " ms", lines: [["latency_p50_ms", "half"], ["latency_p95_ms", "95 %"], ["latency_p99_ms", "99 %"]] },
  { title: "Processor", unit: " cores", lines: [["cpu_cores", "cores"]] },
  { title: "Memory", unit: "B", counts: true, lines: [["memory_bytes", "bytes"]] },
  { title: "Pressure: waiting for", unit: " %", scale: 100, lines: [["cpu_stall", "processor"], ["memory_stall", "memory"], ["io_stall", "disk"]] },
];

// key → { start: ms, values: [number|null] }
const series = new Map();
let kept = null, sampled = null;
let scope = "", minutes = 5;

const keyOf = (of) => `${of.service || ""}|${of.instance || ""}|${of.node || ""}|${of.name}`;

/** What is shown now: of it the newest second is asked for, each second, and once what was kept of the last hour. */
let wanted = null;
const kept_of = new Set();
/** Answers that are on their way: what they bring is not missing. */
let asked = 0;

/** What every first page has in its lines. */
const FIGURES = ["requests_per_second", "errors_per_second", "held", "latency_p99_ms"];

const queryOf = (of) => (of.node ? `node=${encodeURIComponent(of.node)}` : `service=${encodeURIComponent(of.service)}`);

/** A new stream: what was kept may have gaps by now, and another node may measure what the one before did not. */
export function begin() {
  kept_of.clear();
  model.samples.clear();
  sampled = null;
  if (wanted) load(wanted);
}

export function want(of) {
  wanted = of;
  if (of) load(of);
}

async function load(of) {
  const query = queryOf(of);
  if (kept_of.has(query)) return;
  kept_of.add(query);
  asked++;
  try {
    const answer = await ask(`${HISTORY}?${query}&since=${Math.round(clockNow() - HOUR * STEP)}`);
    if (!answer || !Array.isArray(answer.series)) throw new Error("no history");
    for (const one of answer.series) series.set(keyOf(one), { start: one.start_ms, values: one.values });
    kept = true;
  } catch { kept = false; }
  asked--;
  tick();
}

let asking = false;
export async function sample() {
  if (sampled === false || asking || document.hidden || !model.live) return;
  asking = true;
  const queries = wanted ? [queryOf(wanted)] : FIGURES.map((name) => `name=${name}`);
  try {
    for (const answer of await Promise.all(queries.map((query) => ask(`/v1/samples?${query}`)))) {
      if (!answer || !Array.isArray(answer.samples)) throw Object.assign(new Error("no samples"), { status: 404 });
      sampled = true;
      for (const one of answer.samples) {
        model.samples.set(keyOf(one), { ...one, at: performance.now() - one.age_ms });
        point(keyOf(one), answer.now_ms - one.age_ms, one.value);
      }
    }
  } catch (error) {
    // 503 is "not yet"; an agent without measurements says that there is nothing here.
    if (error.status === 404 || error.status === 403) sampled = false;
  }
  asking = false;
}

function point(key, at, value) {
  const one = series.get(key) || { start: at, values: [] };
  const index = Math.round((at - one.start) / STEP);
  if (index < 0 || index > one.values.length + HOUR) { series.set(key, { start: at, values: [value] }); return; }
  while (one.values.length < index) one.values.push(null);
  one.values[index] = value;
  if (one.values.length > HOUR) { const over = one.values.length - HOUR; one.values.splice(0, over); one.start += over * STEP; }
  series.set(key, one);
}

/** What the page saw itself, where the agent measures nothing. */
export function gather() {
  if (sampled) return;
  for (const [service, points] of model.rates) {
    const last = points[points.length - 1];
    if (!last) continue;
    point(keyOf({ service, name: "requests_per_second" }), last.at, last.requests);
    point(keyOf({ service, name: "errors_per_second" }), last.at, last.errors);
  }
}

/** The newest value of a subject, with its age; nothing if there is none or it says nothing of now. */
export function newest(of) {
  const one = model.samples.get(keyOf(of));
  if (!one) return null;
  const old = performance.now() - one.at;
  return old > 5000 ? null : { value: one.value, age: old };
}

/** Charts of a subject: `{service}`, `{service, instance}` or `{node}`; instances of a service are added up where it has no series of its own. */
export function charts(of) {
  return CHARTS.map((chart) => {
    const canvas = h("canvas", { role: "img" });
    const now = h("span"), table = h("p", { class: "visually-hidden" });
    const box = h("div", { class: "chart" }, h("h3", null, chart.title, now), canvas, chart.lines.length > 1 ? h("p", { class: "key" }, chart.lines.map(([, name], index) => h("span", null, h("i", { class: `k${index + 1}`, "aria-hidden": "true" }, "━ "), name))) : null, table);
    box.redraw = () => redraw(chart, of, canvas, now, table);
    return box;
  });
}

function values(of, name, from, to) {
  const exact = series.get(keyOf({ ...of, name }));
  const found = exact ? [exact] : of.service && !of.instance ? [...series].filter(([key]) => key.startsWith(`${of.service}|`) && key.endsWith(`|${name}`) && key.split("|")[1]).map(([, one]) => one) : of.instance ? [...series].filter(([key]) => { const [, instance, , what] = key.split("|"); return instance === of.instance && what === name; }).map(([, one]) => one) : [];
  const all = [];
  const add = name !== "cpu_stall" && name !== "memory_stall" && name !== "io_stall";
  for (let at = from; at < to; at += STEP) {
    let sum = null;
    for (const one of found) {
      const value = one.values[Math.floor((at - one.start) / STEP)];
      if (value === null || value === undefined) continue;
      sum = sum === null ? value : add ? sum + value : Math.max(sum, value);
    }
    all.push(sum);
  }
  return all;
}

function redraw(chart, of, canvas, now, table) {
  const to = Math.floor(clockNow() / STEP) * STEP, from = to - minutes * 60 * STEP;
  const scale = chart.scale || 1;
  const lines = chart.lines.map(([name]) => values(of, name, from, to).map((value) => (value === null ? null : value * scale)));
  const known = lines.flat().filter((value) => value !== null);
  const top = nice(Math.max(...known, 0));
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 300, height = 120;
  if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "11px system-ui, sans-serif";
  pen.fillStyle = colour("--soft");
  pen.strokeStyle = colour("--hair");
  const base = height - 16;
  for (const part of [0, 0.5, 1]) {
    const y = base - part * (base - 12);
    pen.beginPath(); pen.moveTo(0, y); pen.lineTo(width, y); pen.stroke();
    if (part) pen.fillText(part === 1 || chart.counts ? measured(chart, top * part) : figure(top * part), 2, y - 2);
  }
  pen.fillText(clock(from), 2, height - 3);
  pen.textAlign = "right"; pen.fillText("now", width - 2, height - 3); pen.textAlign = "left";
  if (!known.length) { pen.fillText(asked ? "asking…" : "nothing measured", width / 2 - 40, base / 2); }
  lines.forEach((line, index) => {
    pen.strokeStyle = colour(model.live ? `--c${index + 1}` : "--mark-old");
    pen.lineWidth = 1.8;
    pen.setLineDash(index === 2 ? [5, 3] : index === 1 ? [2, 2] : []);
    pen.beginPath();
    let up = true;
    // As many points as there are pixels: the highest of each.
    const per = Math.max(1, Math.ceil(line.length / width));
    for (let at = 0; at < line.length; at += per) {
      let value = null;
      for (let k = at; k < Math.min(at + per, line.length); k++) if (line[k] !== null) value = value === null ? line[k] : Math.max(value, line[k]);
      if (value === null) { up = true; continue; }
      const x = (at / Math.max(1, line.length - 1)) * width, y = base - (value / top) * (base - 12);
      if (up) pen.moveTo(x, y); else pen.lineTo(x, y);
      up = false;
    }
    pen.stroke();
  });
  pen.setLineDash([]);
  const last = lines.map((line) => { for (let at = line.length - 1; at >= Math.max(0, line.length - 4); at--) if (line[at] !== null) return line[at]; return null; });
  const words = !known.length ? "" : chart.counts ? measured(chart, last[0]) : `${last.map((value) => figure(value)).join(" / ")}${chart.unit}`;
  text(now, model.live ? words : words && `${words}, old`);
  const spoken = known.length ? `${chart.title}: now ${words}, at most ${measured(chart, Math.max(...known))} in ${minutes} minutes` : `${chart.title}: ${asked ? "asking" : "nothing measured"}`;
  attr(canvas, "aria-label", spoken);
  text(table, spoken);
}

/** With its unit; of bytes "k", "M" and "G" belong to that. */
function measured(chart, value) {
  const [, number, size] = figure(value).match(/^(.*?)([kMG]?)$/);
  return chart.counts ? `${number} ${size}${chart.unit}` : `${number}${size}${chart.unit}`;
}

function nice(most) {
  if (most <= 0) return 1;
  const size = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * size).find((step) => step >= most);
}

/** Why charts are empty, if they are. */
export function note() {
  if (kept === null) return "";
  if (!kept && !sampled) return "No history on this node: requests and errors are those since this page was opened, through this node's proxy; the rest is not measured.";
  return kept ? "" : "No history on this node: the lines begin when this page was opened.";
}

/** The view of all charts: of one service or node. */
export function view() {
  const services = [...model.services.keys()], nodes = [...model.nodes.keys()];
  if (!scope && services.length) scope = `service ${services.find((name) => model.services.get(name).listen) || services[0]}`;
  const option = (value, label) => h("option", { value, selected: value === scope }, label);
  const choose = h("select", { "aria-label": "Charts of", onchange: (event) => { scope = event.target.value; view(); } }, services.map((name) => option(`service ${name}`, `service ${name}`)), nodes.map((name) => option(`node ${name}`, `node ${name}`)));
  const spanOf = h("select", { "aria-label": "Over", onchange: (event) => { minutes = Number(event.target.value); view(); } }, [[5, "5 minutes"], [15, "15 minutes"], [60, "an hour"]].map(([value, label]) => h("option", { value, selected: value === minutes }, label)));
  put($("chart-note"), h("p", { class: "filter" }, choose, spanOf), h("p", { id: "chart-why" }, note()));
  const [what, name] = scope.split(" ");
  const of = what === "node" ? { node: name } : { service: name };
  want(of);
  const boxes = charts(of);
  put($("chart-grid"), boxes);
  boxes.forEach((box) => box.redraw());
}

export function tick() {
  const why = $("chart-why");
  if (why) text(why, note());
  document.querySelectorAll(".chart").forEach((box) => { if (box.offsetParent && box.redraw) box.redraw(); });
}

export const isFresh = () => age() < 2500;
