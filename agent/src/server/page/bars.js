// A split as a bar, with the same in words.

import { cause, colour, ordered } from "./causes.js";
import { percent, seconds } from "./format.js";
import { h } from "./dom.js";

/** Parts smaller than this would be drawn larger than they are. */
const SPECK = 0.002;

/** A bar as long as `of` says that its sum is long: a share of 1. */
export function bar(split, of = 1) {
  const parts = ordered(split);
  const sum = parts.reduce((total, [, value]) => total + value, 0);
  const visible = parts.filter(([, value]) => value / sum >= SPECK);
  return h(
    "div",
    { class: "bar", role: "img", "aria-label": words(split) },
    visible.map(([key, value]) =>
      h("i", {
        class: colour(key),
        style: { width: `${((value / sum) * of * 100).toFixed(3)}%` },
        title: `${cause(key).name}: ${seconds(value)}, ${percent(value / sum)}`,
      }),
    ),
  );
}

/** The split in words, the largest part first. */
export function words(split) {
  const parts = ordered(split).sort(([, a], [, b]) => b - a);
  if (parts.length === 0) return "nothing lost";
  return parts.map(([key, value]) => `${cause(key).name} ${seconds(value)}`).join(", ");
}

/** The two largest parts, as shares. */
export function leading(split) {
  const parts = ordered(split).sort(([, a], [, b]) => b - a);
  const sum = parts.reduce((total, [, value]) => total + value, 0);
  return parts.slice(0, 2).filter(([, value]) => value / sum >= 0.02).map(([key, value]) =>
    h("span", { class: "part" }, swatch(key), `${cause(key).name} `, h("b", null, percent(value / sum))),
  );
}

/** The colour of a cause, beside its name. */
export function swatch(key) {
  return h("i", { class: `swatch ${colour(key)}`, "aria-hidden": "true" });
}

/** What the colours mean. Those causes come first that the split has. */
export function legend(split) {
  const parts = ordered(split);
  const sum = parts.reduce((total, [, value]) => total + value, 0);
  return h(
    "ul",
    { class: "legend" },
    parts.map(([key, value]) =>
      h(
        "li",
        { "data-key": key },
        swatch(key),
        h("b", null, cause(key).name),
        h("span", { class: "num" }, seconds(value)),
        h("span", { class: "num quiet" }, percent(value / sum)),
        h("span", { class: "meaning" }, cause(key).meaning),
      ),
    ),
  );
}
