// The table of what lost time.

import { lengthOf } from "./address.js";
import { bar, leading, legend, swatch } from "./bars.js";
import { CAUSES } from "./causes.js";
import { h, spoken } from "./dom.js";
import * as format from "./format.js";
import { placement } from "./placement.js";
import { FEW, filtered, keyOf, rows, sorted } from "./rows.js";

/** Columns that say something on machines with several nodes only are marked `nodes`. */
const COLUMNS = [
  { key: "name", title: "Name", hint: "Pod and container, service or cgroup", cell: nameCell },
  { key: "lost", title: "Lost", hint: "Time for which its tasks were kept from their work", cell: (row) => format.seconds(row.lost) },
  { key: "share", title: "Share", hint: "Share that was lost of the time it ran and the time it lost", cell: (row) => format.percent(row.share) },
  { key: null, title: "To what", hint: "What it was lost to; the longest bar is whoever lost most", cell: splitCell },
  { key: "cpu", title: "CPUs", hint: "CPUs' worth of time that it had; below it what its quota allows", cell: cpuCell },
  { key: "moves", title: "Moves", hint: "Times that a task was moved to another CPU", cell: (row) => format.count(row.moves) },
  { key: "far", title: "To other node", hint: "Moves to another NUMA node", nodes: true, cell: (row) => format.count(row.far) },
  { key: "remote", title: "Remote faults", hint: "Page faults that got memory of another NUMA node", nodes: true, cell: (row) => format.count(row.remote) },
  { key: "threads", title: "Threads", hint: "Threads now", cell: (row) => format.count(row.threads) },
  { key: "memory", title: "Memory", hint: "Anonymous memory now", cell: (row) => format.bytes(row.memory) },
  { key: null, title: "Nodes", hint: "By NUMA node: time above, memory below", nodes: true, cell: nodesCell },
];

/** Seconds lost a second that are not worth a long bar. */
const LITTLE = 0.02;

/** What lost time: the sum of all, and the table. */
export function table(top, topology, view, more) {
  const nodes = (topology?.nodes ?? []).map((node) => String(node.id));
  const all = rows(top.containers, view.by);
  const found = sorted(filtered(all, view.filter), view);
  const shown = more ? found : found.slice(0, FEW);
  const context = {
    nodes,
    // On a calm machine the longest bar is short.
    longest: Math.max(...found.map((row) => row.lost), top.recorded_seconds * LITTLE),
    window: top.recorded_seconds,
    chosen: view.chosen && keyOf(view.chosen),
  };
  const columns = COLUMNS.filter((column) => !column.nodes || nodes.length > 1);
  return [
    summary(top, all, found, view),
    shown.length > 0 && h(
      "table",
      { class: "lost", role: "table", "aria-label": "Time lost" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((column) => head(column, view)))),
      h("tbody", { role: "rowgroup" }, shown.map((row) => line(row, columns, context))),
    ),
    shown.length === 0 && empty(all, view),
    shown.length < found.length &&
      h("button", { type: "button", class: "more", "data-do": "more" }, `Show all ${format.count(found.length)}`),
    key(),
  ];
}

function summary(top, all, found, view) {
  const split = {};
  for (const row of found) for (const [key, value] of Object.entries(row.causes)) split[key] = (split[key] ?? 0) + value;
  const lost = found.reduce((sum, row) => sum + row.lost, 0);
  const cpu = found.reduce((sum, row) => sum + row.cpu, 0);
  const what = view.filter ? `${format.count(found.length)} of ${format.plural(all.length, "row")}` : format.plural(all.length, "row");
  return h(
    "div",
    { class: "summary" },
    h(
      "p",
      { class: "figures" },
      h("span", null, h("b", null, format.seconds(lost)), " lost"),
      h("span", null, h("b", null, format.seconds(cpu)), " on CPUs"),
      h("span", { class: "quiet" }, `${what}, ${span(top, view)}`),
    ),
    lost > 0 && bar(split),
    lost > 0 && legend(split),
  );
}

function span(top, view) {
  const until = `${format.length(top.recorded_seconds)} to ${format.clock(top.time)}`;
  const short = lengthOf(view.window) - top.recorded_seconds > 2;
  return short ? `${until} (of ${format.length(lengthOf(view.window))} no more is recorded)` : until;
}

function head(column, view) {
  const sorting = column.key !== null && view.sort === column.key;
  const arrow = sorting ? (view.down ? "▾" : "▴") : "";
  return h(
    "th",
    {
      role: "columnheader",
      scope: "col",
      class: `k-${column.key ?? column.title.split(" ")[0].toLowerCase()}`,
      "aria-sort": sorting ? (view.down ? "descending" : "ascending") : null,
      "data-key": column.title,
    },
    column.key === null
      ? h("span", { title: column.hint }, column.title)
      : h(
          "button",
          { type: "button", "data-sort": column.key, title: column.hint },
          column.title,
          h("span", { class: "arrow", "aria-hidden": "true" }, arrow),
        ),
  );
}

function line(row, columns, context) {
  return h(
    "tr",
    { role: "row", class: row.key === context.chosen ? "chosen" : null, "data-key": row.key },
    columns.map((column) =>
      h(
        column.key === "name" ? "th" : "td",
        {
          role: column.key === "name" ? "rowheader" : "cell",
          scope: column.key === "name" ? "row" : null,
          class: `k-${column.key ?? column.title.split(" ")[0].toLowerCase()}`,
        },
        column.cell(row, context),
      ),
    ),
  );
}

function nameCell(row, context) {
  const { lead, main, tail, kind, hint } = row.name;
  const within = tail || (row.containers > 1 ? `${format.count(row.containers)} containers` : "");
  const place = lead.length > 1 ? lead.slice(0, -1) : kind;
  return h(
    "button",
    {
      type: "button",
      class: "name",
      "data-open": row.key,
      title: hint || null,
      "aria-expanded": String(row.key === context.chosen),
      "aria-controls": "detail",
    },
    h("span", { class: "main" }, main),
    h("span", { class: "kind" }, [place, within].filter(Boolean).join(" · "), !row.live && h("em", null, "ended")),
  );
}

function splitCell(row, context) {
  if (row.lost === 0) return h("span", { class: "quiet" }, "nothing lost");
  return [bar(row.causes, row.lost / context.longest), h("span", { class: "parts", "aria-hidden": "true" }, leading(row.causes))];
}

function cpuCell(row, context) {
  return [
    h("span", null, format.cpus(context.window > 0 ? row.cpu / context.window : null)),
    format.known(row.limit) && h("span", { class: "limit" }, spoken("of "), h("span", { "aria-hidden": "true" }, "/ "), format.cpus(row.limit)),
  ];
}

function nodesCell(row, context) {
  return placement(row, context.nodes);
}

function empty(all, view) {
  if (all.length === 0) return h("p", { class: "empty" }, "Nothing ran in this window, as far as is recorded.");
  return h(
    "p",
    { class: "empty" },
    `None of ${format.count(all.length)} has “${view.filter}” in a name, a label or a cause. `,
    h("button", { type: "button", "data-do": "unfilter" }, "Clear the filter"),
  );
}

/** Every cause with its meaning, also of those that took nothing. */
function key() {
  return h(
    "details",
    { class: "key", "data-key": "key" },
    h("summary", null, "What the causes mean"),
    h(
      "dl",
      null,
      CAUSES.map((one) => [h("dt", null, swatch(one.key), one.name), h("dd", null, one.meaning)]),
    ),
  );
}
