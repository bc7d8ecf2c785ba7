// What is shown is in the address, behind the #, so that a link to it can be sent.

/** Lengths of the window, and their names. */
export const WINDOWS = [
  ["60s", "1 min", 60],
  ["5m", "5 min", 300],
  ["15m", "15 min", 900],
  ["1h", "1 h", 3600],
];

const SORTS = ["name", "lost", "share", "cpu", "moves", "far", "remote", "threads", "memory"];
const LABEL = "is.";

/** What is shown before anybody chose anything. */
export const DEFAULTS = { window: "60s", by: "container", sort: "lost", down: true, filter: "", chosen: null };

/** Reads an address; what makes no sense is as if it were not there. */
export function read(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const one = (name, allowed) => (allowed.includes(given.get(name)) ? given.get(name) : DEFAULTS[name]);
  const labels = [...given].filter(([name]) => name.startsWith(LABEL) && name !== LABEL);
  const sort = one("sort", SORTS);
  return {
    window: one("window", WINDOWS.map(([window]) => window)),
    by: one("by", ["container", "pod"]),
    sort,
    down: given.has("order") ? given.get("order") !== "up" : sort !== "name",
    filter: (given.get("filter") ?? "").slice(0, 200),
    chosen: labels.length > 0 ? Object.fromEntries(labels.map(([name, value]) => [name.slice(LABEL.length), value])) : null,
  };
}

/** Writes one, without what is as it always is. */
export function write(view) {
  const given = new URLSearchParams();
  for (const name of ["window", "by", "sort", "filter"]) {
    if (view[name] !== DEFAULTS[name]) given.set(name, view[name]);
  }
  if (view.down !== (view.sort !== "name")) given.set("order", view.down ? "down" : "up");
  for (const [name, value] of Object.entries(view.chosen ?? {})) given.set(LABEL + name, value);
  return given.size > 0 ? `#${given}` : "";
}

/** Length of a window in seconds. */
export function lengthOf(window) {
  return WINDOWS.find(([name]) => name === window)[2];
}
