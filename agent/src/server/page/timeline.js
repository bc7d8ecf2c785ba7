// The time lost second by second, by cause. A second without a record is a gap.

import { cause, colour, ordered } from "./causes.js";
import { words } from "./bars.js";
import { h, svg } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 150;
/** Points of time that are drawn at most. */
const POINTS = 120;

/** Steps put together, so that there are at most `POINTS`: averages over what is recorded of each. */
export function points(timeline) {
  const size = Math.max(1, Math.ceil(timeline.steps / POINTS));
  const all = [];
  for (let from = 0; from < timeline.steps; from += size) {
    const to = Math.min(from + size, timeline.steps);
    all.push(point(timeline, from, to));
  }
  return all;
}

function point(timeline, from, to) {
  const step = timeline.step_seconds;
  const recorded = timeline.cpu_seconds.slice(from, to).filter(format.known).length;
  const rate = (series) => series.slice(from, to).filter(format.known).reduce((a, b) => a + b, 0) / (recorded * step);
  const start = timeline.start + from * step;
  const length = (to - from) * step;
  if (recorded === 0) return { start, length, recorded: 0, causes: null, cpu: null, lost: null };
  const causes = Object.fromEntries(Object.entries(timeline.causes).map(([key, series]) => [key, rate(series)]));
  const lost = Object.values(causes).reduce((a, b) => a + b, 0);
  return { start, length, recorded: recorded * step, causes, cpu: rate(timeline.cpu_seconds), lost };
}

/** The drawing, as wide as there is room, with a cursor at one point, or none. */
export function chart(timeline, width, cursor) {
  const all = points(timeline);
  const most = ceiling(Math.max(...all.map((one) => Math.max(one.lost ?? 0, one.cpu ?? 0)), 0));
  const at = cursor === null ? null : Math.min(cursor, all.length - 1);
  const shown = all[at ?? all.length - 1];
  return [
    h(
      "div",
      { class: "chart" },
      h("p", { class: "scale", "aria-hidden": "true" }, [most, most / 2, 0].map((value) => h("span", null, format.cpus(value)))),
      h(
        "div",
        {
          class: "plot",
          tabindex: 0,
          role: "slider",
          "data-plot": all.length,
          "aria-label": "Time lost, second by second; arrow keys go through it",
          "aria-valuemin": 0,
          "aria-valuemax": all.length - 1,
          "aria-valuenow": at ?? all.length - 1,
          "aria-valuetext": spokenPoint(shown),
        },
        drawing(all, width, most, at),
      ),
      h("p", { class: "times", "aria-hidden": "true" }, times(timeline)),
    ),
    h("p", { class: "readout", "aria-hidden": "true" }, readout(shown, at === null)),
    h("p", { class: "quiet" }, "Filled: seconds lost each second, by cause. Line: CPUs used. ", all.some((one) => one.lost === null) && "Hatched: no record."),
  ];
}

function drawing(all, width, most, at) {
  const each = width / all.length;
  const y = (value) => HEIGHT - (value / most) * HEIGHT;
  const gap = each > 4 ? 1 : 0;
  return svg(
    "svg",
    { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" },
    svg("defs", null, svg("pattern", { id: "gap", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { class: "gap-line", width: 1.5, height: 6 }))),
    [0.5, 1].map((part) => svg("line", { class: "grid", x1: 0, x2: width, y1: HEIGHT * (1 - part) + 0.5, y2: HEIGHT * (1 - part) + 0.5 })),
    all.map((one, index) => {
      const x = (index * each).toFixed(2);
      if (one.causes === null) return svg("rect", { class: "gap", x, y: 0, width: each.toFixed(2), height: HEIGHT, fill: "url(#gap)" });
      let top = 0;
      return ordered(one.causes).map(([key, value]) => {
        top += value;
        return svg("rect", { class: `fill ${colour(key)}`, x, y: y(top).toFixed(2), width: (each - gap).toFixed(2), height: Math.max(0, (value / most) * HEIGHT).toFixed(2) });
      });
    }),
    runs(all).map((run) => svg("polyline", {
      class: "line",
      points: run.flatMap(({ index, cpu }) => [`${(index * each).toFixed(1)},${y(cpu).toFixed(1)}`, `${((index + 1) * each).toFixed(1)},${y(cpu).toFixed(1)}`]).join(" "),
    })),
    at !== null && svg("rect", { class: "cursor", x: (at * each).toFixed(2), y: 0, width: Math.max(each, 1.5).toFixed(2), height: HEIGHT }),
  );
}

/** The points that follow each other without a gap. */
function runs(all) {
  const found = [];
  let run = null;
  all.forEach((one, index) => {
    if (one.cpu === null) {
      run = null;
      return;
    }
    if (run === null) found.push((run = []));
    run.push({ index, cpu: one.cpu });
  });
  return found;
}

/** The round number above. */
function ceiling(value) {
  if (value <= 0.01) return 0.01;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

function times({ start, steps, step_seconds: step }) {
  return [0, 0.5, 1].map((part) => h("span", null, format.clock(start + part * steps * step)));
}

function readout(one, last) {
  const when = h("b", { class: "num" }, `${last ? "Last: " : ""}${format.clock(one.start)}`);
  if (one.causes === null) return [when, h("span", null, "no record")];
  const parts = ordered(one.causes).sort(([, a], [, b]) => b - a).slice(0, 4);
  return [
    when,
    h("span", null, "lost ", h("b", { class: "num" }, format.cpus(one.lost)), " a second"),
    h("span", null, "CPUs ", h("b", { class: "num" }, format.cpus(one.cpu))),
    parts.map(([key, value]) => h("span", null, h("i", { class: `swatch ${colour(key)}` }), `${cause(key).name} `, h("b", { class: "num" }, format.cpus(value)))),
  ];
}

function spokenPoint(one) {
  const when = format.clock(one.start);
  if (one.causes === null) return `${when}: no record`;
  return `${when}: ${words(one.causes)} lost each second; ${format.cpus(one.cpu)} CPUs used`;
}

/** The same as a table. */
export function chartTable(timeline) {
  const all = points(timeline);
  const causes = ordered(Object.fromEntries(Object.keys(timeline.causes).map((key) => [key, 1]))).map(([key]) => key);
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Time lost, as a table" },
    h(
      "table",
      { class: "small" },
      h("thead", null, h("tr", null, ["Time", "CPUs", "Lost", ...causes.map((key) => cause(key).name)].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", null, all.map((one) => h(
        "tr",
        null,
        h("th", { scope: "row" }, format.clock(one.start)),
        one.causes === null
          ? h("td", { colspan: causes.length + 2, class: "quiet" }, "no record")
          : [one.cpu, one.lost, ...causes.map((key) => one.causes[key])].map((value) => h("td", null, format.cpus(value))),
      ))),
    ),
  );
}
