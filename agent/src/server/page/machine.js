// The machine: its packages, nodes, dies and CPUs, and what lies where.

import { h } from "./dom.js";
import * as format from "./format.js";
import { boxes, cpuList } from "./levels.js";
import { keyOf, plain, rows } from "./rows.js";
import { shares } from "./placement.js";

const NAMES = { core: "core", cluster: "cluster", llc: "last-level cache", die: "die", node: "NUMA node", package: "package" };
const SHORT = { llc: "LLC" };
/** Of a node, those that took most of its time. */
const MOST = 3;

/** The machine as boxes, and what is known of its levels. */
export function machine(topology, top, view) {
  const all = top ? rows(top.containers, view.by) : [];
  const context = {
    topology,
    all,
    top,
    chosen: view.chosen && (all.find((row) => row.key === keyOf(view.chosen)) ?? null),
  };
  return [
    h("div", { class: "boxes" }, drawn(boxes(topology), context)),
    levels(topology),
    topology.notes.length > 0 && h("ul", { class: "notes" }, topology.notes.map((note) => h("li", null, note))),
  ];
}

/** A box with those in it. The whole machine is no box when it has no name. */
function drawn(one, context) {
  const inside = one.within.length > 0 ? one.within.map((child) => drawn(child, context)) : one.cores.length > 0 && cells(one.cores);
  if (one.names.length === 0) return inside;
  const node = one.names.find((name) => name.level === "node");
  return h(
    "div",
    { class: `box b-${one.names[0].level}${node ? " b-node" : ""}` },
    h("p", { class: "names" }, one.names.map(({ level, id }) => h("span", null, `${SHORT[level] ?? level} ${id}`))),
    node && load(node.id, context),
    one.within.length > 0 ? h("div", { class: "within" }, inside) : inside,
  );
}

/** CPUs as numbers, those of one core together. */
function cells(cores) {
  return h(
    "div",
    { class: "cpus", role: "img", "aria-label": `CPUs ${cores.flat().sort((a, b) => a - b).join(", ")}` },
    cores.map((core) => h("span", { class: "core" }, core.map((cpu) => h("i", null, cpu)))),
  );
}

/** What a node does: how busy, how full, with whom. */
function load(id, context) {
  const { topology, all, top, chosen } = context;
  const node = topology.nodes.find((node) => node.id === id);
  if (!node || !top) return null;
  const at = (row, field) => row[field]?.[id] ?? 0;
  const sum = (field) => all.reduce((total, row) => total + at(row, field), 0);
  const seconds = top.recorded_seconds;
  const cpus = cpuList(node.cpus).length;
  const memoryKnown = all.some((row) => row.memoryByNode);
  return h(
    "div",
    { class: "load" },
    cpus > 0 && meter("CPU", sum("cpuByNode") / seconds, cpus, chosen && at(chosen, "cpuByNode") / seconds, (value) => format.cpus(value), plural(cpus)),
    format.known(node.memory_bytes) && memoryKnown &&
      meter("Memory", sum("memoryByNode"), node.memory_bytes, chosen && at(chosen, "memoryByNode"), format.bytes, format.bytes(node.memory_bytes)),
    format.known(node.memory_bytes) && !memoryKnown &&
      h("p", { class: "meter" }, h("span", { class: "what" }, "Memory"), h("span", null, format.bytes(node.memory_bytes))),
    daemons(id, top),
    chosen ? portion(id, chosen) : busiest(all, at, seconds),
  );
}

function plural(cpus) {
  return `${cpus} CPU${cpus === 1 ? "" : "s"}`;
}

/** How much of something there is; what the chosen one has is a part of it. */
function meter(what, used, all, chosen, text, whole) {
  const share = (value) => `${Math.min(100, all > 0 ? (value / all) * 100 : 0).toFixed(2)}%`;
  return h(
    "p",
    { class: "meter" },
    h("span", { class: "what" }, what),
    h("span", { class: "track", "aria-hidden": "true" },
      h("i", { class: "used", style: { width: share(used) } }),
      format.known(chosen) && h("i", { class: "mine", style: { width: share(chosen) } })),
    h("span", { class: "num" }, `${text(used)} of ${whole}`),
  );
}

function daemons(id, top) {
  const here = top.daemons.filter((one) => one.node === String(id) && one.cpu_seconds >= 0.005);
  if (here.length === 0) return null;
  return h("p", { class: "daemons" }, here.map((one) => h("span", null, `${one.daemon} `, h("b", { class: "num" }, format.seconds(one.cpu_seconds)))));
}

function portion(id, row) {
  const share = (byNode) => shares(byNode)?.[id] ?? 0;
  const memory = row.memoryByNode ? `, ${format.percent(share(row.memoryByNode))} of its memory` : "";
  return h("p", { class: "mine" }, h("b", null, row.name.main), ` ${format.percent(share(row.cpuByNode))} of its time${memory}`);
}

function busiest(all, at, seconds) {
  const most = all.filter((row) => at(row, "cpuByNode") > 0.005).sort((a, b) => at(b, "cpuByNode") - at(a, "cpuByNode")).slice(0, MOST);
  if (most.length === 0) return h("p", { class: "quiet" }, "at rest");
  return h(
    "ol",
    { class: "busiest" },
    most.map((row) =>
      h(
        "li",
        { "data-key": row.key },
        h("button", { type: "button", class: "plain", "data-open": row.key, title: plain(row.name) }, h("span", { class: "main" }, row.name.main)),
        h("span", { class: "num" }, format.cpus(at(row, "cpuByNode") / seconds)),
      ),
    ),
  );
}

/** Each level: how many, or that nobody reports it. */
function levels(topology) {
  return h(
    "dl",
    { class: "levels" },
    [...topology.levels].reverse().map(({ level, source, reason, groups }) =>
      h(
        "div",
        null,
        h("dt", null, NAMES[level] ?? level),
        h("dd", null, known(source, reason, groups)),
      ),
    ),
  );
}

function known(source, reason, groups) {
  if (source === "none") return [h("span", { class: "tag" }, "not reported"), ` ${reason ?? ""}`];
  const number = h("span", { class: "num" }, format.count(groups.length));
  if (source === "sysfs") return number;
  return [number, " ", h("span", { class: "tag" }, "a guess"), " told apart by which CPUs share them, as they have no usable ids"];
}
