// One pod, container, service or cgroup: where it is, when it lost time, and why.

import { bar, leading } from "./bars.js";
import { h } from "./dom.js";
import { ranking, verdict } from "./explain.js";
import * as format from "./format.js";
import { shares } from "./placement.js";
import { keyOf, nameOf, rows } from "./rows.js";
import { chart, chartTable } from "./timeline.js";

/** All of it. `timeline` and `explain` are the agent's answers, or null while they are asked for. */
export function detail(view, top, timeline, explain, drawing) {
  const name = nameOf(view.chosen);
  const row = top && [...rows(top.containers, "container"), ...rows(top.containers, "pod")].find((row) => row.key === keyOf(view.chosen));
  return [
    h(
      "header",
      null,
      h("h2", { tabindex: -1, id: "detail-title" }, h("span", { class: "lead" }, name.lead), h("span", { class: "main" }, name.main), name.tail && h("span", { class: "tail" }, name.tail)),
      h("button", { type: "button", "data-do": "close" }, "Close"),
    ),
    labels(view.chosen),
    explain?.value && verdict(explain.value),
    row && figures(row, top),
    h("section", { "data-key": "when", "aria-labelledby": "when-title" },
      h("h3", { id: "when-title" }, "When"),
      answered(timeline, (value) => when(value, drawing))),
    h("section", { "data-key": "why", "aria-labelledby": "why-title" },
      h("h3", { id: "why-title" }, "Why"),
      answered(explain, ranking)),
    row && h("section", { "data-key": "where", "aria-labelledby": "where-title" },
      h("h3", { id: "where-title" }, "Where"),
      where(row)),
  ];
}

/** What an answer says, or that there is none. */
function answered(answer, draw) {
  if (!answer) return h("p", { class: "empty" }, "Asking the agent.");
  if (answer.error !== null) return h("p", { class: "empty" }, answer.error);
  return draw(answer.value);
}

/** Those labels that the name does not have. */
function labels(chosen) {
  const named = chosen.pod ? ["namespace", "pod", "container"] : ["cgroup"];
  const others = Object.entries(chosen).filter(([name, value]) => value && !named.includes(name));
  if (others.length === 0) return null;
  return h("dl", { class: "labels" }, others.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

function figures(row, top) {
  const limit = format.known(row.limit) ? ` of ${format.cpus(row.limit)} allowed` : "";
  return h(
    "div",
    { class: "summary" },
    h(
      "p",
      { class: "figures" },
      h("span", null, h("b", null, format.seconds(row.lost)), ` lost, ${format.percent(row.share)} of what it wanted`),
      h("span", null, h("b", null, format.cpus(top.recorded_seconds > 0 ? row.cpu / top.recorded_seconds : null)), ` CPUs used${limit}`),
      format.known(row.threads) && h("span", null, h("b", null, format.count(row.threads)), row.threads === 1 ? " thread" : " threads"),
      format.known(row.memory) && h("span", null, h("b", null, format.bytes(row.memory)), " of anonymous memory"),
    ),
    row.lost > 0 && bar(row.causes),
    row.lost > 0 && h("p", { class: "parts", "aria-hidden": "true" }, leading(row.causes)),
  );
}

function when(timeline, drawing) {
  return [
    chart(timeline, drawing.width, drawing.cursor),
    h("details", { "data-key": "table", "data-fold": "table" }, h("summary", null, "As a table"), drawing.table && chartTable(timeline)),
  ];
}

function where(row) {
  const [time, memory] = [shares(row.cpuByNode), shares(row.memoryByNode)];
  const nodes = [...new Set([...Object.keys(row.cpuByNode ?? {}), ...Object.keys(row.memoryByNode ?? {})])].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  if (nodes.length === 0) return h("p", { class: "empty" }, "It took no time on any CPU in this window.");
  const cell = (value, share, text) => h("td", null, format.known(value) ? [text(value), " ", h("span", { class: "quiet" }, format.percent(share))] : "–");
  return [
    h(
      "table",
      { class: "small" },
      h("thead", null, h("tr", null, ["NUMA node", "CPU time", "Anonymous memory"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", null, nodes.map((node) => h(
        "tr",
        null,
        h("th", { scope: "row" }, node),
        cell(row.cpuByNode?.[node], time?.[node] ?? 0, format.seconds),
        cell(row.memoryByNode?.[node], memory?.[node] ?? 0, format.bytes),
      ))),
    ),
    row.memoryByNode === null && h("p", { class: "quiet" }, "Where its memory lies is not known here."),
    nodes.length > 1 && h("p", { class: "quiet" }, [
      format.known(row.far) && `${format.count(row.far)} of ${format.count(row.moves)} moves were to another node.`,
      format.known(row.remote) && `${format.count(row.remote)} of ${format.count(row.faults)} page faults got memory of another node.`,
    ].filter(Boolean).join(" ")),
  ];
}
