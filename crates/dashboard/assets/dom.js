// Making and changing elements. Text of others is only ever set as text, never read as markup.
const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; what is null is left out. `on…` are listeners. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in a picture. */
export function s(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) add(element, child);
    else element.append(child);
  }
}

export const $ = (id) => document.getElementById(id);

/** Puts these in the place of what is there. */
export function put(element, ...children) {
  element.replaceChildren();
  add(element, children);
}

/** The same, but what is there stays where it can: a click that has begun on something ends on it, and the focus stays. */
export function morph(element, ...children) {
  const wanted = document.createElement(element.tagName);
  add(wanted, children);
  blend(element, wanted);
}

function blend(old, wanted) {
  let at = old.firstChild;
  for (const next of [...wanted.childNodes]) {
    if (at && isSame(at, next)) {
      if (at.nodeType === 3) { if (at.data !== next.data) at.data = next.data; }
      else if (!at.isEqualNode(next)) {
        for (const { name } of [...at.attributes]) if (!next.hasAttribute(name)) at.removeAttribute(name);
        for (const { name, value } of [...next.attributes]) if (at.getAttribute(name) !== value) at.setAttribute(name, value);
        blend(at, next);
      }
      at = at.nextSibling;
    } else old.insertBefore(next, at);
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
}

/** Of the same kind and for the same: only its words differ. */
function isSame(old, wanted) {
  if (old.nodeType !== wanted.nodeType || old.nodeName !== wanted.nodeName) return false;
  return old.nodeType === 3 || ["data-action", "data-slot", "data-seq", "id"].every((name) => old.getAttribute(name) === wanted.getAttribute(name));
}

/** Sets an attribute if it is another one: what does not change costs nothing. */
export function attr(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

export function flag(element, name, on) {
  if (element.classList.contains(name) !== on) element.classList.toggle(name, on);
}

/** Tells those who listen to the page instead of looking at it. */
export function say(words) {
  text($("say"), words);
}

export const plural = (n, one, many) => `${n} ${n === 1 ? one : many || one + "s"}`;

/** "0.4 s", "12 s", "3 min", "2 h", "4 d". */
export function span(ms) {
  if (!Number.isFinite(ms)) return "–";
  const at = Math.max(0, ms) / 1000;
  if (at < 10) return `${at.toFixed(1)} s`;
  if (at < 90) return `${Math.round(at)} s`;
  if (at < 5400) return `${Math.round(at / 60)} min`;
  if (at < 129600) return `${Math.round(at / 3600)} h`;
  return `${Math.round(at / 86400)} d`;
}

/** The time of day of an RFC 3339 moment, with milliseconds if wanted. */
export function clock(at, exact) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return at || "–";
  const two = (n) => String(n).padStart(2, "0");
  const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return exact ? `${time}.${String(date.getMilliseconds()).padStart(3, "0")}` : time;
}

/** A figure in three digits: "0.25", "12.3", "4.5k". */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)}G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  if (size >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return size >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export const us = (value) => (value < 1000 ? `${value} µs` : value < 1e6 ? `${(value / 1000).toFixed(1)} ms` : `${(value / 1e6).toFixed(2)} s`);

/** Asks the agent; an answer of "no" is an error with its words. */
export async function ask(path, options) {
  const response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  const type = response.headers.get("content-type") || "";
  const body = type.includes("json") ? await response.json() : null;
  if (response.ok) return body;
  const error = new Error((body && body.text) || `the agent answered ${response.status}`);
  error.status = response.status;
  error.hint = body && body.hint;
  throw error;
}

export const post = (path, body) =>
  ask(path, { method: "POST", headers: { "content-type": "application/json", "x-understudy": "1", "understudy-by": "the dashboard" }, body: JSON.stringify(body === undefined ? null : body) });
