// What is known, and how old it is. Fed by one stream; nothing else changes it.
//
//   connecting ──snapshot──► live ──no beat for 2.5 s──► stale ──► tries again, and the other nodes
//        ▲                                                │
//        └────────────────────────────────────────────────┘

/** A page hears once a second; past this it knows nothing of now. */
const SILENCE_MS = 2500;
const RETRY_MS = 1000;
/** A try that brings nothing is given up after this. */
const TRY_MS = 4000;
/** Then other nodes are looked for. */
const MOVE_AFTER_MS = 5000;
const EVENTS_MAX = 2000;
const POINTS_MAX = 3600;

export const model = {
  node: null, cluster: "", at: null, revision: 0, paused: null, pause: null,
  /** Counts what the layout of the picture depends on: who there is, and where. */
  layout: 0,
  /** Counts what the lines depend on: who serves, and whether anything flows. */
  turn: 0,
  services: new Map(), instances: new Map(), nodes: new Map(), problems: [], events: [], peers: [],
  ages: {}, distancesAt: null, staleAfter: SILENCE_MS, analysis: null,
  heard: null, since: null, live: false, viewer: { may_look: true, may_act: false },
  traffic: new Map(), rates: new Map(), samples: new Map(),
};
const listeners = [];
/** Calls `fn(what)` after a change: `all`, `change`, `beat` or `state`. */
export const onChange = (fn) => listeners.push(fn);
const tell = (what) => listeners.forEach((fn) => fn(what));

/** What came with the page: the same as the stream tells in a moment. Whether somebody may look is in it too. */
export function first() {
  const data = document.getElementById("first");
  if (!data) return false;
  const { viewer, snapshot: all } = JSON.parse(data.textContent);
  data.remove();
  model.viewer = viewer;
  model.heard = performance.now();
  model.at = all.status.at;
  model.live = true;
  snapshot(all);
  return true;
}

let source = null, seq = null, timer = null, tried = 0;

export function connect() {
  clearTimeout(timer);
  if (source) source.close();
  seq = null;
  tried = performance.now();
  source = new EventSource("/v1/stream");
  source.addEventListener("snapshot", (message) => hear(message, snapshot));
  source.addEventListener("change", (message) => hear(message, change));
  source.addEventListener("beat", (message) => hear(message, beat));
  source.onerror = () => again(RETRY_MS);
}

function again(after) {
  if (source) source.close();
  source = null;
  clearTimeout(timer);
  timer = setTimeout(connect, after);
}

function hear(message, apply) {
  const data = JSON.parse(message.data);
  // A number that is missing is a message that is missing: everything is asked for anew.
  if (apply !== snapshot && (seq === null || data.seq !== seq + 1)) return again(0);
  seq = data.seq;
  model.heard = performance.now();
  model.at = data.at || data.status.at;
  if (!model.live) { model.live = true; model.since = null; tell("state"); }
  apply(data);
}

function snapshot(data) {
  const status = data.status;
  model.node = data.node;
  model.cluster = status.cluster;
  model.staleAfter = data.stale_after_ms;
  model.peers = data.peers;
  model.services = new Map(status.services.map((service) => [service.name, service]));
  model.nodes = new Map(status.nodes.map((node) => [node.name, node]));
  model.problems = status.problems;
  model.paused = status.paused;
  model.pause = status.pause || null;
  model.revision = status.revision;
  model.events = data.events;
  model.ages = data.ages;
  model.distancesAt = status.distances_at || null;
  model.instances = new Map();
  model.services.forEach(index);
  model.layout++;
  model.turn++;
  count(Object.fromEntries(status.services.filter((service) => service.traffic).map((service) => [service.name, service.traffic])));
  tell("all");
}

function change(data) {
  model.revision = data.revision;
  model.paused = data.paused;
  model.pause = data.pause || null;
  for (const name of data.gone) {
    for (const instance of model.services.get(name)?.instances || []) model.instances.delete(instance.id);
    model.services.delete(name);
    model.layout++;
  }
  for (const delta of data.services) {
    const before = model.services.get(delta.service.name);
    const instances = new Map((before ? before.instances : []).map((instance) => [instance.id, instance]));
    let moved = !before || before.listen !== delta.service.listen || delta.gone.length > 0;
    for (const id of delta.gone) { instances.delete(id); model.instances.delete(id); }
    for (const instance of delta.instances) {
      const was = instances.get(instance.id);
      moved ||= !was || was.node !== instance.node;
      instances.set(instance.id, instance);
    }
    const service = { ...delta.service, traffic: before ? before.traffic : null };
    service.instances = [...instances.values()].sort((a, b) => number(a.id) - number(b.id));
    model.services.set(service.name, service);
    if (!before) model.services = new Map([...model.services].sort(([a], [b]) => (a < b ? -1 : 1)));
    if (moved) model.layout++;
    if (moved || serving(before) !== serving(service)) model.turn++;
    index(service);
  }
  if (data.nodes) { model.nodes = new Map(data.nodes.map((node) => [node.name, node])); model.layout++; }
  if (data.problems) model.problems = data.problems;
  if (data.events.length) model.events = [...model.events, ...data.events].slice(-EVENTS_MAX);
  tell("change");
}

const number = (id) => Number(id.slice(id.lastIndexOf("-") + 1)) || 0;

function index(service) {
  const slots = new Map(service.slots.filter((slot) => slot.instance).map((slot) => [slot.instance, slot]));
  for (const instance of service.instances) {
    const was = model.instances.get(instance.id), slot = slots.get(instance.id) || null;
    // What is the same stays the same object: whoever draws it need not look closer.
    if (was && was.instance === instance && (was.slot === slot || (was.slot && slot && was.slot.epoch === slot.epoch && was.slot.slot === slot.slot))) { was.service = service; continue; }
    model.instances.set(instance.id, { instance, service, slot });
  }
}

const serving = (service) => service.slots.map((slot) => `${slot.state}${slot.instance}`).join();

function beat(data) {
  model.ages = data.ages;
  model.distancesAt = data.distances_at || null;
  const flows = (name) => { const points = model.rates.get(name); return Boolean(points && points.length && points[points.length - 1].requests > 0); };
  const before = [...model.services.keys()].map(flows).join();
  count(data.traffic);
  if ([...model.services.keys()].map(flows).join() !== before) model.turn++;
  tell("beat");
}

/** Rates are what the proxy's counters grew by since the beat before. */
function count(traffic) {
  const at = new Date(model.at).getTime();
  for (const [name, now] of Object.entries(traffic)) {
    const before = model.traffic.get(name);
    const points = model.rates.get(name) || [];
    const seconds = before ? (at - before.at) / 1000 : 0;
    if (before && seconds >= 0.5) {
      // Another proxy counts from nothing.
      const grown = (key) => (now[key] >= before.now[key] ? (now[key] - before.now[key]) / seconds : now[key] / seconds);
      points.push({ at, requests: grown("requests"), errors: grown("errors") + grown("failed"), held: grown("held") });
      if (points.length > POINTS_MAX) points.shift();
      model.rates.set(name, points);
    }
    if (!before || seconds >= 0.5) model.traffic.set(name, { at, now });
  }
}

export const rate = (name) => { const points = model.rates.get(name); return points && points.length ? points[points.length - 1] : null; };

/** What the agent's clock says now: that of the one who looks may be another. */
export const now = () => (model.at ? new Date(model.at).getTime() + age() : Date.now());

/** How old the page's news is, milliseconds. */
export const age = () => (model.heard === null ? Infinity : performance.now() - model.heard);

/** How long ago it was made sure how far outages are; `null` while only instances were counted. */
export const distanceAge = () => (model.distancesAt ? now() - new Date(model.distancesAt).getTime() : null);

/** How old what is known of a node is. */
export const nodeAge = (name) => (model.ages[name] === undefined ? 0 : model.ages[name]) + (Number.isFinite(age()) ? age() : 0);

/** Whether what is said of a node may be wrong by now. A node that is known to be lost is known. */
export function isStale(name) {
  if (!model.live) return true;
  const node = model.nodes.get(name);
  if (node && node.state === "offline") return false;
  return nodeAge(name) > model.staleAfter;
}

/** A service is as fresh as the oldest of what it is made of. */
export const isServiceStale = (service) => !model.live || service.instances.some((one) => isStale(one.node)) || cutOff();

/** Without the store, what this node says of others is what it heard last. */
export const cutOff = () => model.problems.some((problem) => problem.code === "store-lost");

/** Looks four times a second whether there is still news; `move` is called while there is none and other nodes may know more. */
export function watch(move) {
  setInterval(() => {
    if (model.live && age() > SILENCE_MS) {
      model.live = false;
      model.since = new Date(Date.now() - age());
      tell("state");
      again(0);
    } else if (!model.live && performance.now() - tried > TRY_MS) {
      // A hung agent, or a path that swallows: the connection is there and says nothing.
      connect();
    }
    if (!model.live && model.heard !== null && age() > MOVE_AFTER_MS) move();
    tell("age");
  }, 250);
}
