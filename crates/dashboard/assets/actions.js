// Actions. Each is asked about first: the agent says what it would do, and only then can it be confirmed.
import { $, ask, h, post, put, say, text } from "./dom.js";
import { model, onChange } from "./model.js";

const enc = encodeURIComponent;

const park = (service, slot) => post("/v1/park", { service, slot, by: "the dashboard", why: "" });
const unpark = (service, slot) => post("/v1/unpark", { service, slot, by: "the dashboard" });

/** What can be done to a thing: name for the preview, words, request, and what takes it back. */
const ACTIONS = {
  switchover: { word: "Switch over", key: "s", send: (name, slot) => post("/v1/switchover", { service: name, slot, to: null }), undo: (name, preview, slot) => { const held = preview.effects[0] && preview.effects[0].actives[0]; return held ? { word: `Switch back to ${held}`, send: () => post("/v1/switchover", { service: name, slot, to: held }) } : null; } },
  drain: { word: "Drain", key: "d", send: (name) => post(`/v1/drain/${enc(name)}`), undo: (name) => ({ word: `Let node ${name} back`, send: () => post(`/v1/undrain/${enc(name)}`) }) },
  undrain: { word: "Let back", key: "d", send: (name) => post(`/v1/undrain/${enc(name)}`), undo: (name) => ({ word: `Drain node ${name} again`, send: () => post(`/v1/drain/${enc(name)}`) }) },
  "drill-node": { word: "Drill its loss", key: "x", send: (name) => post("/v1/drill", { what: "node", name, back_after_ms: null }), undo: (name) => ({ word: `Let node ${name} back`, send: () => post(`/v1/undrain/${enc(name)}`) }) },
  "drill-instance": { word: "Drill its death", key: "x", send: (name) => post("/v1/drill", { what: "instance", name, back_after_ms: null }) },
  park: { word: "Park", send: (name, slot) => park(name, slot), undo: (name, preview, slot) => ({ word: `Unpark ${name}/${slot}`, send: () => unpark(name, slot) }) },
  unpark: { word: "Unpark", send: (name, slot) => unpark(name, slot), undo: (name, preview, slot) => ({ word: `Park ${name}/${slot} again`, send: () => park(name, slot) }) },
  retry: { word: "Try again now", send: (name) => post(`/v1/retry/${enc(name)}`) },
  pause: { word: "Pause", key: "p", send: () => post("/v1/pause", { by: "the dashboard", why: "" }), undo: () => ({ word: "Resume", send: () => post("/v1/resume", { by: "the dashboard" }) }) },
  resume: { word: "Resume", key: "p", send: () => post("/v1/resume", { by: "the dashboard" }), undo: () => ({ word: "Pause again", send: () => post("/v1/pause", { by: "the dashboard", why: "" }) }) },
};

/** The buttons of a thing's page. Of a service with several slots each slot has its own, beside it. */
export function buttons(what, name) {
  if (!model.viewer.may_act) return [h("span", { class: "soft" }, "sign in to act")];
  const of = { service: () => { const known = model.services.get(name); return known && known.slots.length === 1 ? slotButtons(known, known.slots[0]) : []; }, instance: () => { const known = model.instances.get(name); return buttonsOf(known && known.instance.state !== "running" ? ["retry"] : ["drill-instance"], name); }, node: () => { const node = model.nodes.get(name); return buttonsOf(node && node.state === "online" ? ["drain", "drill-node"] : ["undrain"], name); } };
  return of[what]();
}

/** The buttons of one slot. A key stands for the first that has such a button. */
export function slotButtons(service, slot) {
  return buttonsOf(slot.parked ? ["unpark"] : ["switchover", "park"], service.name, slot.slot, slot === service.slots.find((one) => !one.parked));
}

function buttonsOf(actions, name, slot = null, keys = true) {
  return actions.map((action) => h("button", { type: "button", "data-action": action, "data-slot": slot, "aria-keyshortcuts": (keys && ACTIONS[action].key) || null, "aria-label": slot === null ? null : `${ACTIONS[action].word} slot ${slot}…`, onclick: () => begin(action, name, slot) }, ACTIONS[action].word + "…"));
}

/** The action that a key stands for on a page. */
export function byKey(key, what, name) {
  if (!model.viewer.may_act) return null;
  const button = [...document.querySelectorAll("#detail .actions button")].find((one) => one.getAttribute("aria-keyshortcuts") === key);
  if (button) { button.click(); return true; }
  return null;
}

let open = null;

/** Shows what an action would do, and takes it only after that. */
export async function begin(action, name, slot = null) {
  const dialog = $("ask");
  open = { action, name, slot, preview: null, busy: false };
  const mine = open;
  put(dialog, h("h2", { id: "ask-title" }, ACTIONS[action].word), h("p", { class: "soft" }, "asking what it would do…"), h("form", { method: "dialog" }, h("button", { value: "no" }, "Cancel"), confirm(null)));
  if (!dialog.open) dialog.showModal();
  await look(mine);
}

function confirm(preview) {
  const bad = preview && preview.severity === "error";
  return h("button", { type: "button", class: "primary", id: "ask-yes", disabled: !preview || preview.refused !== null || !model.live, onclick: () => go(open) }, bad ? "Do it all the same" : "Do it");
}

async function look(mine) {
  const query = `/v1/preview?action=${mine.action}${mine.name ? `&name=${enc(mine.name)}` : ""}${mine.slot === null ? "" : `&slot=${mine.slot}`}`;
  let preview;
  try { preview = await ask(query); } catch (error) {
    if (mine === open) put($("ask"), h("h2", { id: "ask-title" }, ACTIONS[mine.action].word), h("p", null, `What it would do is not known: ${error.message}. So it cannot be done from here.`), h("form", { method: "dialog" }, h("button", null, "Close")));
    return;
  }
  if (mine !== open || mine.busy) return;
  const again = mine.preview !== null;
  // What is the same is not drawn anew: a click that has begun on a button ends on it.
  if (again && $("ask-yes") && JSON.stringify(preview) === JSON.stringify(mine.preview)) {
    $("ask-yes").disabled = preview.refused !== null || !model.live;
    return;
  }
  mine.preview = preview;
  show(mine, again);
}

function show(mine, again) {
  const { preview } = mine, dialog = $("ask");
  const focused = document.activeElement && document.activeElement.id;
  const tone = { info: "ok", warning: "warn", error: "bad" }[preview.severity];
  const effects = preview.effects.length ? h("div", { class: "scroll" }, h("table", { class: "effect" }, h("caption", { class: "visually-hidden" }, "What it does to each service"), h("thead", null, h("tr", null, ["Service", "State", "Instances to an outage", "Takes over"].map((one) => h("th", { scope: "col" }, one)))), h("tbody", null, preview.effects.map((one) => h("tr", null, h("th", { scope: "row" }, one.service), h("td", null, one.state === one.state_after ? one.state : [one.state, h("span", { class: "arrow" }, " → "), one.state_after]), h("td", null, one.distance === one.distance_after ? String(one.distance) : [String(one.distance), h("span", { class: "arrow" }, " → "), h("b", null, String(one.distance_after))]), h("td", null, one.heirs.join(", ") || "–")))))) : null;
  put(dialog, h("h2", { id: "ask-title" }, preview.title), preview.refused ? h("p", { class: "tag", "data-tone": "bad" }, preview.refused) : h("p", { class: "tag", "data-tone": tone }, { info: "nobody notices", warning: "less is left to lose", error: "a service goes down" }[preview.severity]),
    h("h3", null, "What would happen"), h("ul", { class: "said" }, preview.lines.map((one) => h("li", null, one))), effects,
    h("form", { method: "dialog" }, h("span", { class: "undo" }, preview.undo ? `To take it back: ${preview.undo}.` : "This cannot be taken back."), h("button", { value: "no", id: "ask-no" }, "Cancel"), confirm(preview)));
  const target = (again && focused && $(focused)) || $("ask-no");
  target.focus();
  if (!again) say(`${preview.title}. ${preview.refused || preview.lines.join(". ")}`);
}

async function go(mine) {
  if (!mine || mine.busy || !mine.preview || mine.preview.refused !== null) return;
  mine.busy = true;
  const dialog = $("ask"), action = ACTIONS[mine.action];
  $("ask-yes").disabled = true;
  text($("ask-yes"), "doing it…");
  try { ended(mine, await action.send(mine.name, mine.slot), action.undo && action.undo(mine.name, mine.preview, mine.slot)); } catch (error) {
    put(dialog, h("h2", { id: "ask-title" }, "It was not done"), h("p", null, error.message), error.hint ? h("p", { class: "soft" }, error.hint) : null, h("form", { method: "dialog" }, h("button", null, "Close")));
  }
}

function ended(mine, outcome, undo) {
  open = null;
  const dialog = $("ask"), words = outcome && outcome.text ? outcome.text : "done";
  put(dialog, h("h2", { id: "ask-title" }, "Done"), h("p", { id: "ask-done" }, words), h("form", { method: "dialog" }, undo ? h("button", { type: "button", id: "ask-undo", onclick: async (event) => {
    event.target.disabled = true;
    try { const back = await undo.send(); text($("ask-done"), back && back.text ? back.text : "taken back"); event.target.remove(); } catch (error) { text($("ask-done"), `not taken back: ${error.message}`); event.target.disabled = false; }
  } }, undo.word) : null, h("button", { class: "primary" }, "Close")));
  say(words);
  const last = dialog.querySelector("form button:last-child");
  if (last) last.focus();
}

export function setUp() {
  const dialog = $("ask");
  // The event comes after the dialog is closed: by then the next action may have opened it again.
  dialog.addEventListener("close", () => { if (!dialog.open) open = null; });
  // What would happen changes with what is; an old answer is none.
  let due = null;
  onChange((what) => {
    if (!open || open.busy || !(what === "change" || what === "all" || what === "state")) return;
    if (!model.live && $("ask-yes")) { $("ask-yes").disabled = true; return; }
    clearTimeout(due);
    const mine = open;
    due = setTimeout(() => { if (mine === open) look(mine); }, 200);
  });
}
