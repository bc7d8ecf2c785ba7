// The page: what is chosen, what is asked, and drawing what the agent answers.

import { agent } from "./agent.js";
import * as address from "./address.js";
import { detail } from "./detail.js";
import { h, show } from "./dom.js";
import { Feed } from "./feed.js";
import * as format from "./format.js";
import { machine } from "./machine.js";
import { anyPod, keyOf, rows } from "./rows.js";
import { table } from "./table.js";

const OFTEN = 2_000;
const place = (id) => document.getElementById(id);

let view = address.read(location.hash);
/** What is no part of the address. */
const drawing = { more: false, table: false, cursor: null, width: 600 };
/** Where the focus goes when the detail is closed. */
let opener = null;

const long = () => address.lengthOf(view.window) * 1000;
const chosen = () => new URLSearchParams({ ...view.chosen, window: view.window });
const feed = new Feed(
  [
    { name: "top", path: () => `api/v1/top?window=${view.window}`, every: () => OFTEN },
    // What changes by a hundredth of its width looks the same.
    { name: "timeline", path: () => view.chosen && `api/v1/timeline?${chosen()}`, every: () => Math.max(OFTEN, long() / 100) },
    { name: "explain", path: () => view.chosen && `api/v1/explain?${chosen()}`, every: () => Math.max(2 * OFTEN, long() / 50) },
    { name: "topology", path: () => "api/v1/topology", every: () => 60_000 },
    { name: "status", path: () => "api/v1/status", every: () => 10_000 },
  ],
  draw,
);

/** The last answer that has a value, even to another window: it stays until the next has come. */
function last(name) {
  return feed.answers.get(name)?.value ?? null;
}

function draw() {
  const [top, topology, status] = [last("top"), last("topology"), last("status")];
  drawTools(top);
  drawLink();
  if (top) show(place("lost"), table(top, topology, view, drawing.more));
  else drawRefusal("lost", "top");
  if (topology) show(place("machine"), machine(topology, top, view));
  else drawRefusal("machine", "topology");
  if (status) show(place("agent"), agent(status, top));
  place("lost").setAttribute("aria-busy", String(!feed.get("top")));
  drawHost(topology, status);
  drawDetail(top);
}

function drawRefusal(id, name) {
  const error = feed.answers.get(name)?.error;
  if (error) show(place(id), h("p", { class: "empty" }, error));
}

function drawHost(topology, status) {
  if (!topology || !status) return;
  const cpus = topology.levels.find(({ level }) => level === "core")?.groups.length;
  const parts = [cpus && format.plural(cpus, "core"), format.plural(topology.nodes.length, "NUMA node"), `Linux ${/^[\d.]*/.exec(status.kernel)[0]}`];
  show(place("host"), parts.filter(Boolean).join(" · "));
}

function drawTools(top) {
  const pods = top && anyPod(top.containers);
  place("by").hidden = !pods && view.by !== "pod";
  choices("window", address.WINDOWS.map(([value, name]) => [value, name]));
  choices("by", [["container", "Containers"], ["pod", "Pods"]]);
  const filter = place("filter");
  if (document.activeElement !== filter && filter.value !== view.filter) filter.value = view.filter;
}

function choices(name, all) {
  const set = place(name);
  if (set.querySelectorAll("input").length === 0) {
    for (const [value, text] of all) {
      set.append(h("label", null, h("input", { type: "radio", name, value }), h("span", null, text)));
    }
  }
  for (const input of set.querySelectorAll("input")) input.checked = input.value === view[name];
}

/** Whether the agent is heard, how old the numbers are, and when it is asked again. */
function drawLink() {
  const age = feed.heard === null ? null : (performance.now() - feed.heard) / 1000;
  const state = feed.trouble !== null ? "lost" : feed.paused ? "paused" : feed.heard === null ? "new" : "live";
  const says = { lost: `No connection to the agent: ${feed.trouble}`, paused: "Paused", new: "Connecting", live: "Live" };
  place("link").className = state;
  if (place("link").textContent !== says[state]) place("link").textContent = says[state];
  place("age").textContent = state === "lost" ? lostFor(age) : state === "paused" && age > 3 ? `${format.length(age)} old` : "";
  place("retry").hidden = state !== "lost";
  document.body.classList.toggle("stale", state === "lost");
}

function lostFor(age) {
  const wait = Math.max(0, Math.ceil((feed.next - performance.now()) / 1000));
  const again = wait > 0 ? `trying again in ${wait} s` : "trying again";
  return age === null ? again : `numbers are ${format.length(age)} old, ${again}`;
}

function drawDetail(top) {
  const aside = place("detail");
  document.body.classList.toggle("with-detail", view.chosen !== null);
  aside.hidden = view.chosen === null;
  if (view.chosen === null) return show(aside);
  show(aside, detail(view, top, feed.get("timeline"), feed.get("explain"), drawing));
  const width = aside.querySelector(".plot")?.clientWidth;
  if (width && Math.abs(width - drawing.width) > 1) {
    drawing.width = width;
    show(aside, detail(view, top, feed.get("timeline"), feed.get("explain"), drawing));
  }
}

/** Changes what is shown, and the address with it; `step` makes it one that the browser goes back from. */
function choose(change, step = false) {
  view = { ...view, ...change };
  const url = address.write(view) || location.pathname + location.search;
  if (step) history.pushState(null, "", url);
  else history.replaceState(null, "", url);
  draw();
  feed.nudge();
}

function open(key, button) {
  const top = last("top");
  const row = top && [...rows(top.containers, view.by), ...rows(top.containers, "container")].find((row) => row.key === key);
  if (!row) return;
  if (view.chosen && keyOf(view.chosen) === key) return close();
  opener = button?.dataset.open ?? key;
  drawing.cursor = null;
  choose({ chosen: row.labels }, true);
  place("detail").scrollTop = 0;
  place("detail-title").focus({ preventScroll: true });
  scrollTo({ top: Math.min(scrollY, place("detail").offsetTop) });
}

function close() {
  if (view.chosen === null) return;
  const key = opener ?? keyOf(view.chosen);
  choose({ chosen: null }, true);
  const back = [...document.querySelectorAll("[data-open]")].find((button) => button.dataset.open === key);
  (back ?? place("filter")).focus();
}

function sort(key) {
  const down = view.sort === key ? !view.down : key !== "name";
  choose({ sort: key, down });
}

async function copy(button) {
  const text = button.dataset.text;
  // Browsers offer the clipboard to pages from localhost and by HTTPS only.
  const done = navigator.clipboard ? await navigator.clipboard.writeText(text).then(() => true, () => false) : false;
  if (!done) getSelection().selectAllChildren(button.previousElementSibling);
  const said = done ? "Copied" : document.execCommand("copy") ? "Copied" : "Selected";
  button.textContent = said;
  button.setAttribute("aria-label", said);
}

const ACTIONS = {
  close,
  copy,
  more: () => {
    drawing.more = true;
    draw();
  },
  unfilter: () => {
    place("filter").value = "";
    choose({ filter: "" });
    place("filter").focus();
  },
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.sort) sort(button.dataset.sort);
  else if (button?.dataset.open) open(button.dataset.open, button);
  else if (button?.dataset.do) ACTIONS[button.dataset.do](button);
  else if (!button && getSelection().isCollapsed) {
    // The whole row, for whoever has a mouse.
    const row = event.target.closest("table.lost tbody tr");
    if (row) open(row.dataset.key, row.querySelector("[data-open]"));
  }
});

document.addEventListener("keydown", (event) => {
  // In the filter Escape is the browser's: it empties it.
  if (event.key === "Escape" && view.chosen && !event.target.value) {
    event.preventDefault();
    close();
  } else if (event.target.dataset?.plot) {
    step(event);
  } else if (event.target.classList?.contains("name")) {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!way) return;
    const all = [...document.querySelectorAll("button.name")];
    all[all.indexOf(event.target) + way]?.focus();
    event.preventDefault();
  }
});

/** Moves the cursor of the timeline. */
function step(event) {
  const end = Number(event.target.dataset.plot) - 1;
  const at = drawing.cursor ?? end;
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowDown: at - 1, ArrowUp: at + 1, PageDown: at - 10, PageUp: at + 10, Home: 0, End: end }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  drawing.cursor = Math.max(0, Math.min(end, to));
  draw();
}

function point(event) {
  const plot = event.target.closest?.(".plot");
  if (!plot && drawing.cursor === null) return;
  if (!plot && document.activeElement?.dataset?.plot) return;
  const all = Number(plot?.dataset.plot);
  const box = plot?.getBoundingClientRect();
  const cursor = plot ? Math.max(0, Math.min(all - 1, Math.floor(((event.clientX - box.left) / box.width) * all))) : null;
  if (cursor === drawing.cursor) return;
  drawing.cursor = cursor;
  draw();
}

document.addEventListener("pointermove", point);
document.addEventListener("pointerdown", point);
document.addEventListener("toggle", (event) => {
  if (event.target.dataset?.fold !== "table") return;
  drawing.table = event.target.open;
  draw();
}, true);
document.addEventListener("change", (event) => {
  if (event.target.type === "radio") choose({ [event.target.name]: event.target.value });
});
place("filter").addEventListener("input", (event) => choose({ filter: event.target.value }));
place("retry").addEventListener("click", () => feed.retry());
place("pause").addEventListener("click", () => {
  feed.paused = !feed.paused;
  place("pause").setAttribute("aria-pressed", String(feed.paused));
  drawLink();
  feed.nudge();
});
const moved = () => {
  view = address.read(location.hash);
  drawing.cursor = null;
  draw();
  feed.nudge();
};
addEventListener("popstate", moved);
addEventListener("hashchange", moved);
addEventListener("resize", () => draw());
setInterval(() => document.hidden || drawLink(), 1000);

place("filter").value = view.filter;
draw();
feed.run();
