// Where time and memory lie, by NUMA node.

import { h, spoken } from "./dom.js";
import { percent } from "./format.js";

/** Two rows of small columns, one for each node: shares of time above, of memory below. */
export function placement(row, nodes) {
  const [time, memory] = [shares(row.cpuByNode), shares(row.memoryByNode)];
  if (!time && !memory) return h("span", { class: "quiet" }, "–");
  return h(
    "span",
    { class: "nodes", title: said(time, memory) },
    spoken(said(time, memory)),
    h("span", { class: "pair", "aria-hidden": "true" }, nodes.map((node) => [
      h("i", { class: "time", style: { "--share": part(time, node) } }),
      h("i", { class: "memory", style: { "--share": part(memory, node) } }),
    ])),
  );
}

/** Shares of 1, or null where nothing is known or nothing is there. */
export function shares(byNode) {
  const sum = Object.values(byNode ?? {}).reduce((a, b) => a + b, 0);
  if (sum === 0) return null;
  return Object.fromEntries(Object.entries(byNode).map(([node, value]) => [node, value / sum]));
}

function part(known, node) {
  return (known?.[node] ?? 0).toFixed(3);
}

function said(time, memory) {
  return `time ${list(time)}; memory ${list(memory)}`;
}

function list(known) {
  if (!known) return "not known";
  return Object.entries(known)
    .filter(([, share]) => share >= 0.0005)
    .sort(([, a], [, b]) => b - a)
    .map(([node, share]) => `${percent(share)} on node ${node}`)
    .join(", ");
}
