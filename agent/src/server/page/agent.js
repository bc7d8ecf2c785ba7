// The agent itself: what each probe does here, and what all of it costs.

import { h } from "./dom.js";
import { unmeasured } from "./explain.js";
import * as format from "./format.js";

const MARKS = { attached: "✓", unsupported: "–", failed: "✗" };

/** Probes with the reasons of those that do not count, and the cost. */
export function agent(status, top) {
  return [
    top && cost(top),
    h("ul", { class: "probes" }, status.probes.map(probe)),
    top && unmeasured(top.not_measured.filter(({ what }) => !shown(status).has(what))),
    h("dl", { class: "labels" }, facts(status).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value)))),
  ];
}

/** What the probes above say already. */
function shown(status) {
  return new Set(status.probes.flatMap(({ probe, hooks }) => [probe, ...(hooks ?? []).map(({ hook }) => `${probe}: ${hook}`)]));
}

function cost(top) {
  const { cpu_seconds: cpu, resident_bytes: resident, map_bytes: tables } = top.agent;
  const share = format.known(cpu) && top.recorded_seconds > 0 ? cpu / top.recorded_seconds : null;
  return h(
    "p",
    { class: "figures" },
    h("span", null, h("b", null, format.percent(share)), " of a CPU"),
    h("span", null, h("b", null, format.bytes(resident)), " resident"),
    h("span", null, h("b", null, format.bytes(tables)), " of tables in the kernel"),
  );
}

function facts(status) {
  return [["version", status.version], ["kernel", status.kernel], ["cgroups", status.cgroups], ["pods", status.names?.replace(/:\s*$/, "")]].filter(([, value]) => value);
}

function probe(one) {
  const hooks = one.hooks ?? [];
  return h(
    "li",
    { "data-key": one.probe },
    h("p", { class: "probe" }, state(one.state), h("b", null, one.probe), h("span", { class: "quiet" }, one.summary)),
    hooks.length > 0
      ? h("ul", null, hooks.map((hook) => h("li", { "data-key": hook.hook }, state(hook.state), h("span", null, hook.hook), h("span", { class: "quiet" }, because(hook)))))
      : h("p", { class: "quiet" }, because(one)),
  );
}

function state(word) {
  return h("span", { class: `state s-${word in MARKS ? word : "other"}` }, h("i", { "aria-hidden": "true" }, MARKS[word] ?? "?"), ` ${word}`);
}

function because({ by, error, reason }) {
  return by?.join(" + ") ?? error ?? reason ?? "";
}
