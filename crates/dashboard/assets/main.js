// Puts it together: which view is shown, keys, colours, signing in, and moving on to another node when this one is lost.
import { $, ask, attr, clock, flag, post, put, h, say, span, text } from "./dom.js";
import { age, connect, cutOff, first, model, onChange, watch } from "./model.js";
import * as picture from "./picture.js";
import * as views from "./views.js";
import * as charts from "./charts.js";
import * as actions from "./actions.js";

const KEYS = { o: "overview", c: "charts", e: "events", f: "failovers", r: "risks" };
const PASS_EVERY_MS = 120000;
const ANALYSE_EVERY_MS = 20000;
let route = ["overview"];
let pass = null;

// --- which view -------------------------------------------------------------------------------------------------------------

function parse() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  return parts[0] ? parts : ["overview"];
}

function show(focus) {
  route = parse();
  const [what, name] = route;
  const isDetail = ["service", "instance", "node"].includes(what) && name;
  const view = !model.viewer.may_look ? "sign-in" : isDetail ? "detail" : $(what) && $(what).dataset.view ? what : "overview";
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== view;
  for (const link of document.querySelectorAll("[data-nav]")) attr(link, "aria-current", link.dataset.nav === view ? "page" : null);
  views.leave();
  if (view === "detail") views.detail(what, name);
  else everything();
  if (focus) { $("view").focus({ preventScroll: true }); scrollTo(0, 0); }
  document.title = `${isDetail ? name : view} · ${model.cluster || $("cluster").textContent} · Understudy`;
}

/** Draws all of what is shown. */
function everything() {
  switch (shown()) {
    case "overview": picture.draw($("picture")); views.verdict(); views.problems(); views.services(); views.latest(); break;
    case "charts": charts.view(); break;
    case "events": views.events(); break;
    case "failovers": views.failovers(); break;
    case "risks": views.riskView(); break;
    case "detail": views.redetail(); break;
  }
}

const shown = () => { const section = [...document.querySelectorAll("[data-view]")].find((one) => !one.hidden); return section ? section.dataset.view : ""; };

// --- what changes -----------------------------------------------------------------------------------------------------------

// One drawing for each frame, however much came in.
const due = new Set();
function soon(what) {
  if (!due.size) requestAnimationFrame(paint);
  due.add(what);
}

let explained = null, drawn = false;

function paint() {
  const all = due.has("all") || due.has("change") || due.has("state");
  const beat = due.has("beat");
  due.clear();
  bar();
  if (!model.viewer.may_look || model.heard === null) return;
  const view = shown();
  if (all) {
    everything();
    if (!drawn) { drawn = true; performance.mark("first-picture"); }
    if (view === "detail") { clearTimeout(explained); explained = setTimeout(views.explain, 400); }
  } else if (beat) {
    if (view === "overview") { picture.refresh(); views.verdict(); views.figures(); }
    if (view === "detail") views.redetail();
  } else if (view === "overview" && !model.live) picture.ages();
  if (beat) { charts.gather(); charts.tick(); }
}

/** There each node has its own age, and the bar room for one line. */
const small = matchMedia("(max-width: 720px)");

function bar() {
  const live = $("live"), state = model.heard === null ? "wait" : model.live ? "live" : "stale";
  attr(live, "data-state", state);
  text($("live-word"), state === "wait" ? "connecting" : state === "live" ? (small.matches ? "live" : `live, ${span(age())} ago`) : `old since ${clock(model.since)}`);
  flag(document.body, "stale", state === "stale");
  flag(document.body, "connecting", state === "wait");
  const banner = $("banner");
  const lost = state === "stale", words = lost ? `No news from node ${model.node} since ${clock(model.since)} (${span(age())}). What is shown in grey was so then.${moving ? ` Looking for another node: ${moving}.` : ""}` : model.paused ? `Automatic actions are paused since ${clock(model.paused)}${model.pause ? ` by ${model.pause.by}${model.pause.why ? ` (${model.pause.why})` : ""}` : ""}: nothing is failed over or started again.` : cutOff() ? `Node ${model.node} is cut off from the store: what it says of others is what it heard last.` : "";
  banner.hidden = !words;
  attr(banner, "data-kind", lost ? "lost" : "warn");
  text(banner, words);
  const pause = $("pause");
  pause.hidden = !model.viewer.may_act;
  text(pause, model.paused ? "Resume" : "Pause");
  text($("who"), model.viewer.may_act ? "Sign out" : "Sign in");
}

// --- moving on --------------------------------------------------------------------------------------------------------------

let moving = "", looking = false;

/** Another node that answers knows more than this page. */
async function move() {
  if (looking || !model.peers.length) return;
  looking = true;
  for (const peer of model.peers) {
    moving = peer.node;
    bar();
    try {
      await fetch(`${peer.url}/ui/alive`, { mode: "no-cors", cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(1500) });
      location.assign(`${peer.url}/ui/sign-in#${pass || ""}`);
      return;
    } catch { /* the next one */ }
  }
  moving = "none of them answers";
  looking = false;
}

/** Kept in memory only: with it the page signs in at the node that it moves on to. */
async function renewPass() {
  if (!model.viewer.may_look) return;
  try { pass = (await post("/ui/pass")).pass; } catch { pass = null; }
}

// --- who looks --------------------------------------------------------------------------------------------------------------

async function who() {
  try { model.viewer = await ask("/ui/me"); } catch { /* the stream says that nobody answers */ }
}

async function signIn(text_) {
  try {
    await post("/ui/sign-in", { pass: text_ });
    await who();
    text($("sign-in-said"), "");
    return true;
  } catch (error) {
    text($("sign-in-said"), error.message + (error.hint ? `: ${error.hint}` : ""));
    return false;
  }
}

function askToSignIn(why) {
  for (const section of document.querySelectorAll("[data-view]")) section.hidden = section.dataset.view !== "sign-in";
  text($("sign-in-why"), why);
  $("pass").focus();
}

async function begin() {
  const brought = location.pathname.endsWith("/sign-in") ? decodeURIComponent(location.hash.slice(1)) : "";
  if (location.pathname.endsWith("/sign-in")) {
    // The pass is not left in the history.
    history.replaceState(null, "", "/ui/#/overview");
    if (brought) await signIn(brought);
  }
  if (!first() || brought) await who();
  text($("cluster"), model.viewer.cluster || $("cluster").textContent);
  if (!model.viewer.may_look) { askToSignIn("From another machine, nothing is shown before you sign in."); return; }
  start();
  if (brought && $("sign-in-said").textContent) askToSignIn("");
}

let started = false;
function start() {
  show(false);
  if (started) { connect(); return; }
  started = true;
  connect();
  watch(move);
  renewPass();
  setInterval(renewPass, PASS_EVERY_MS);
  setInterval(charts.sample, 1000);
  setInterval(() => { if (model.live && !document.hidden) views.analyse().then(() => soon("state")); }, ANALYSE_EVERY_MS);
}

// --- keys and buttons -------------------------------------------------------------------------------------------------------

function theme(next) {
  const root = document.documentElement, order = ["auto", "light", "dark"];
  const now = next || order[(order.indexOf(root.dataset.theme) + 1) % order.length];
  root.dataset.theme = now;
  try { localStorage.setItem("understudy-theme", now); } catch { /* forgotten with the page */ }
  text($("theme"), { auto: "◐", light: "☀", dark: "☾" }[now]);
  attr($("theme"), "aria-label", `Colours: ${now === "auto" ? "as the system has them" : now}`);
  charts.tick();
  if (next === undefined) say($("theme").getAttribute("aria-label"));
}

const pauseOrResume = () => { if (model.viewer.may_act) actions.begin(model.paused ? "resume" : "pause", ""); };

function step(by) {
  if (picture.step(by)) return;
  const links = [...document.querySelectorAll("[data-view]:not([hidden]) tbody a, [data-view]:not([hidden]) .log a, [data-view]:not([hidden]) .fall a, [data-view]:not([hidden]) article a")].filter((link) => link.offsetParent);
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[(at + by + links.length) % links.length].focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) { if (event.key === "Escape") event.target.blur(); return; }
  if ($("ask").open || $("help").open) return;
  const [what, name] = route;
  const inPicture = event.target.closest && event.target.closest("#picture");
  if (KEYS[event.key]) location.hash = `#/${KEYS[event.key]}`;
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "t") theme();
  else if (event.key === "p") pauseOrResume();
  else if (event.key === "j" || (inPicture && ["ArrowDown", "ArrowRight"].includes(event.key))) step(1);
  else if (event.key === "k" || (inPicture && ["ArrowUp", "ArrowLeft"].includes(event.key))) step(-1);
  else if (event.key === "Escape") location.hash = "#/overview";
  else if (["s", "d", "x"].includes(event.key) && name) actions.byKey(event.key, what, name);
  else return;
  event.preventDefault();
});

$("help-open").addEventListener("click", () => $("help").showModal());
$("theme").addEventListener("click", () => theme());
$("pause").addEventListener("click", pauseOrResume);
$("who").addEventListener("click", async () => {
  if (!model.viewer.may_act) { askToSignIn("Looking needs no sign-in on this machine; actions do."); return; }
  try { await post("/ui/sign-out"); } catch { /* signed out already */ }
  location.assign("/ui/");
});
$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = $("pass").value.trim();
  $("pass").value = "";
  if (await signIn(given.includes("#") ? given.slice(given.indexOf("#") + 1) : given)) start();
});
for (const id of ["event-service", "event-severity"]) $(id).addEventListener("change", views.events);
$("event-text").addEventListener("input", views.events);
addEventListener("hashchange", () => { if (model.viewer.may_look) show(true); });
addEventListener("resize", () => soon("all"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.tick());

let saved = "auto";
try { saved = localStorage.getItem("understudy-theme") || "auto"; } catch { /* no store */ }
theme(["auto", "light", "dark"].includes(saved) ? saved : "auto");
actions.setUp();
onChange((what) => {
  if (what === "all") { text($("cluster"), model.cluster); charts.begin(); charts.sample(); who().then(() => soon("state")); views.analyse().then(() => soon("state")); }
  soon(what);
});
begin();
