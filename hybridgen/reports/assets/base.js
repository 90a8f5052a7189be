// The data, and what every part of the page builds with. Text from the data only ever becomes text nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const own = (object, key) => (object && Object.hasOwn(object, key) ? object[key] : null);
const collator = new Intl.Collator("en", {numeric: true, sensitivity: "base"});

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// What a button says that shows `count` more of `left`.
function moreWords(count, left) {
  return left <= count
    ? `Show the other ${left === 1 ? "one" : left.toLocaleString("en")}`
    : `Show ${count} more of ${left.toLocaleString("en")}`;
}

function button(text, action, attributes = {}) {
  const found = make("button", {type: "button", ...attributes}, text);
  found.addEventListener("click", action);
  return found;
}

// A choice with its label; `options` are [value, text] pairs.
function choice(label, options, value, action) {
  const select = make("select", {"aria-label": label});
  for (const [one, text] of options) select.append(make("option", {value: one}, text));
  select.value = value;
  select.addEventListener("change", () => action(select.value));
  return make("label", {class: "choice"}, make("span", {}, label), select);
}

function tick(label, value, action) {
  const box = make("input", {type: "checkbox"});
  box.checked = value;
  box.addEventListener("change", () => action(box.checked));
  return make("label", {class: "tick"}, box, make("span", {}, label));
}

function section(id, short, title, note, ...children) {
  const head = make("h2", {id: `${id}-title`, "data-short": short}, title);
  const words = note ? make("p", {class: "note"}, note) : null;
  const found = make("section", {id, "aria-labelledby": `${id}-title`}, head, words, ...children);
  byId("main").append(found);
  return found;
}

// Two sheets of paper: not every font has a letter for it.
function copyIcon() {
  return shape(
    "svg",
    {viewBox: "0 0 16 16", width: 14, height: 14, class: "icon", "aria-hidden": "true"},
    shape("rect", {x: 5.5, y: 5.5, width: 8, height: 9, rx: 1.5}),
    shape("path", {d: "M10.5 3.2V3a1.5 1.5 0 0 0-1.5-1.5H4A1.5 1.5 0 0 0 2.5 3v6.5A1.5 1.5 0 0 0 4 11"}),
  );
}

function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], {type}));
  const link = make("a", {href: address, download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function say(text) {
  const box = byId("said");
  box.textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (box.textContent = ""), 2500);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages from a disk may not write to the clipboard by that call.
    const area = make("textarea", {class: "away", readonly: true});
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`Copied ${what}`);
}

// Parts of the page tell each other what changed: filter, hover, select, theme, front, size.
const listeners = {};
function when(what, action) {
  (listeners[what] ??= []).push(action);
}
function changed(what, value) {
  for (const action of listeners[what] ?? []) action(value);
}

// What the reader chose, kept in the address so that a view can be shared.
const chosen = new Map(new URLSearchParams(location.hash.slice(1)));
function remember(name, value) {
  if (value === null || value === "") chosen.delete(name);
  else chosen.set(name, String(value));
  clearTimeout(remember.timer);
  remember.timer = setTimeout(() => {
    const text = new URLSearchParams([...chosen]).toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }, 150);
}
function recalled(name, allowed, otherwise) {
  const value = chosen.get(name);
  return value !== undefined && allowed.includes(value) ? value : otherwise;
}
window.addEventListener("hashchange", () => location.reload());
