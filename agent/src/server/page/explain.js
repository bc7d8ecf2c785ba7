// Why: the causes ranked, what speaks for each, and what to do.

import { cause } from "./causes.js";
import { swatch } from "./bars.js";
import { h } from "./dom.js";
import * as format from "./format.js";

/** What the agent says of the chosen one's window, in a sentence. */
export function verdict(report) {
  return [
    h(
      "p",
      { class: `verdict ${report.unusual ? "unusual" : "usual"}` },
      h("b", null, report.unusual ? "Unusual" : "Nothing unusual"),
      h("span", null, report.summary),
    ),
    short(report),
  ];
}

/** A smaller share than this is folded away, unless it is unusual. */
const LITTLE = 0.05;

/** The causes, ranked. */
export function ranking(report) {
  const matters = ({ unusual, share }, at) => at === 0 || unusual || share >= LITTLE;
  const lesser = report.causes.filter((one, at) => !matters(one, at));
  const list = (causes) => h("ol", { class: "causes" }, causes.map((one) => ranked(one, report)));
  return [
    report.causes.length > 0 ? list(report.causes.filter(matters)) : h("p", { class: "empty" }, "It lost nothing in this window."),
    lesser.length > 0 && h("details", { class: "lesser", "data-key": "lesser" }, h("summary", null, `Lesser causes (${lesser.length})`), list(lesser)),
    unmeasured(report.not_measured),
  ];
}

function short(report) {
  if (report.recorded_seconds >= report.window_seconds - 1) return null;
  return h("p", { class: "quiet" }, `Of the ${format.length(report.window_seconds)} asked for, ${format.length(report.recorded_seconds)} are recorded.`);
}

function ranked(one, report) {
  return h(
    "li",
    { class: one.unusual ? "unusual" : null, "data-key": one.cause },
    h(
      "h4",
      { title: cause(one.cause).meaning || null },
      swatch(one.cause),
      h(
        "span",
        { class: "title" },
        one.title,
        one.unusual && h("span", { class: "tag strong" }, "unusual"),
        one.estimate && h("span", { class: "tag" }, "estimate"),
      ),
      h("span", { class: "num" }, format.seconds(one.seconds)),
    ),
    h("p", { class: "quiet" }, usually(one, report)),
    one.evidence.length > 0 && h("ul", { class: "evidence" }, one.evidence.map((fact) => h("li", null, fact.text))),
    one.remedy.length > 0 && h("ul", { class: "remedy" }, one.remedy.map(remedy)),
  );
}

function usually(one, report) {
  const share = one.estimate ? "" : `${format.percent(one.share)} · `;
  if (!format.known(one.baseline)) return `${share}no record before to compare with`;
  const before = report.baseline_windows === 1 ? "in the window before" : `median of the ${format.count(report.baseline_windows)} windows before`;
  return `${share}usually ${format.seconds(one.baseline)}, ${before}`;
}

function remedy(one, index) {
  return h(
    "li",
    { "data-key": `${index} ${one.text}` },
    h("span", null, one.text),
    one.command && h(
      "span",
      { class: "command" },
      h("code", null, one.command),
      h("button", { type: "button", "data-do": "copy", "data-text": one.command, "aria-label": `Copy the command: ${one.text}` }, "Copy"),
    ),
  );
}

/** What could not be measured, so that nobody takes it for zero. */
export function unmeasured(list) {
  if (list.length === 0) return null;
  return h(
    "details",
    { class: "unmeasured", "data-key": "unmeasured" },
    h("summary", null, `Not measured here (${list.length})`),
    h("dl", null, list.map(({ what, reason }) => [h("dt", null, what), h("dd", null, reason)])),
  );
}
