// From the agent's list of containers to the rows of the table.

import { known } from "./format.js";

/** Rows that are drawn unless more are asked for. */
export const FEW = 100;

/** The containers, or their sums by pod. */
export function rows(containers, by) {
  if (by !== "pod") return containers.map((one) => row([one], one.labels));
  const pods = new Map();
  for (const one of containers) {
    const { namespace, pod } = one.labels;
    const labels = pod ? { namespace: namespace ?? "", pod } : one.labels;
    const key = keyOf(labels);
    pods.set(key, { labels, parts: [...(pods.get(key)?.parts ?? []), one] });
  }
  return [...pods.values()].map(({ labels, parts }) => row(parts, labels));
}

/** Whether any of them is in a pod. */
export function anyPod(containers) {
  return containers.some((one) => one.labels.pod);
}

/** What tells labels apart from others. */
export function keyOf(labels) {
  return JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function row(parts, labels) {
  const causes = {};
  for (const { causes: split } of parts) add(causes, split);
  const cpu = sum(parts, "cpu_seconds") ?? 0;
  const lost = sum(parts, "lost_seconds") ?? 0;
  return {
    key: keyOf(labels),
    labels,
    name: nameOf(labels),
    live: parts.some((one) => one.live),
    containers: parts.length,
    causes,
    cpu,
    lost,
    share: cpu + lost > 0 ? lost / (cpu + lost) : null,
    cpuByNode: byNode(parts, "cpu_by_node"),
    memoryByNode: byNode(parts, "memory_by_node"),
    memory: total(byNode(parts, "memory_by_node")),
    moves: sum(parts, "migrations"),
    far: sum(parts, "migrations_between_nodes"),
    faults: sum(parts, "faults"),
    remote: sum(parts, "remote_faults"),
    threads: sum(parts, "threads"),
    limit: sum(parts, "cpu_limit"),
  };
}

/** The sum of what is known; null where nothing is. */
function sum(parts, field) {
  const values = parts.map((one) => one[field]).filter(known);
  return values.length > 0 ? values.reduce((a, b) => a + b, 0) : null;
}

function byNode(parts, field) {
  const given = parts.map((one) => one[field]).filter(Boolean);
  if (given.length === 0) return null;
  const nodes = {};
  for (const one of given) add(nodes, one);
  return nodes;
}

function total(nodes) {
  return nodes && Object.values(nodes).reduce((a, b) => a + b, 0);
}

function add(to, from) {
  for (const [key, value] of Object.entries(from)) to[key] = (to[key] ?? 0) + value;
}

const SUMS = {
  "(other)": "those that have no series of their own, because of a limit",
  "(unresolved)": "pods that no source has named",
  "(removed)": "what has ended",
};

/** A name in parts: what leads to it, itself, what is within it, and what kind of thing it is. */
export function nameOf(labels) {
  const { namespace, pod, container, cgroup } = labels;
  if (pod) {
    return { lead: namespace ? `${namespace}/` : "", main: pod, tail: container ?? "", kind: container ? "container" : "pod", hint: cgroup ?? "" };
  }
  if (cgroup in SUMS) return { lead: "", main: cgroup, tail: "", kind: "sum", hint: SUMS[cgroup] };
  if (cgroup) {
    const cut = cgroup.lastIndexOf("/") + 1;
    const main = cgroup.slice(cut);
    if (main === "") return { lead: "", main: cgroup, tail: "", kind: "root", hint: "what is in no other cgroup" };
    return { lead: cgroup.slice(0, cut), main, tail: "", kind: kindOf(main), hint: cgroup };
  }
  const values = Object.values(labels).filter(Boolean);
  const main = values.pop() ?? "(no name)";
  return { lead: values.map((value) => `${value}/`).join(""), main, tail: "", kind: "", hint: "" };
}

function kindOf(name) {
  return /\.(service|slice|scope)$/.exec(name)?.[1] ?? "cgroup";
}

/** A name in one line. */
export function plain({ lead, main, tail }) {
  return tail ? `${lead}${main}/${tail}` : lead + main;
}

/** The rows that have every word of the filter in a name, a label or a cause. */
export function filtered(all, filter) {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return all;
  return all.filter((one) => {
    const causes = Object.keys(one.causes).filter((cause) => one.causes[cause] > 0);
    const text = [plain(one.name), ...Object.values(one.labels), ...causes].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** The rows in order; what is not known comes last, whichever way. */
export function sorted(all, { sort, down }) {
  const sign = down ? -1 : 1;
  const names = new Map(all.map((one) => [one, plain(one.name)]));
  // What is shown first counts first.
  const compared = (one, other) => one.localeCompare(other, undefined, { numeric: true });
  const byName = (a, b) => compared(a.name.main, b.name.main) || compared(names.get(a), names.get(b));
  return [...all].sort((a, b) => {
    if (sort === "name") return sign * byName(a, b);
    const [one, other] = [a[sort], b[sort]];
    if (!known(one) || !known(other)) return known(other) - known(one) || byName(a, b);
    return sign * (one - other) || b.cpu - a.cpu || byName(a, b);
  });
}
