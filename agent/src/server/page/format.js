// Numbers as text: few digits, units, and no zero for what is not.

const THIN = "\u202f";
const ABSENT = "–";

/** Seconds, to a hundredth below 10 s. */
export function seconds(value) {
  if (!known(value)) return ABSENT;
  if (value === 0) return `0${THIN}s`;
  if (value < 0.005) return `<${THIN}0.01${THIN}s`;
  return `${decimals(value)}${THIN}s`;
}

/** A share of 1, in per cent. */
export function percent(value) {
  if (!known(value)) return ABSENT;
  if (value === 0) return `0${THIN}%`;
  if (value < 0.001) return `<${THIN}0.1${THIN}%`;
  // 99.96 % is not all.
  const digits = value < 0.0995 || (value > 0.99 && value < 1) ? 1 : 0;
  return `${(Math.floor(value * 1000 + 0.5) / 10).toFixed(digits)}${THIN}%`;
}

/** Bytes, in powers of 1,024. */
export function bytes(value) {
  if (!known(value)) return ABSENT;
  let unit = 0;
  while (value >= 1024 && unit < 5) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : decimals(value)}${THIN}${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

/** A count, with the thousands apart. */
export function count(value) {
  return known(value) ? grouped(Math.round(value).toString()) : ABSENT;
}

/** CPUs' worth of time. */
export function cpus(value) {
  if (!known(value)) return ABSENT;
  if (value > 0 && value < 0.005) return `<${THIN}0.01`;
  return value === 0 ? "0" : decimals(value);
}

/** A length of time in words: `42 s`, `5 min`, `2 h`. */
export function length(value) {
  if (value < 90) return `${Math.round(value)}${THIN}s`;
  if (value < 5400) return `${Math.round(value / 60)}${THIN}min`;
  return `${decimals(value / 3600)}${THIN}h`;
}

/** The time of day here, of Unix seconds. */
export function clock(value) {
  return new Date(value * 1000).toLocaleTimeString([], { hour12: false });
}

/** A number and its noun. */
export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** Whether a number was measured. */
export function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function decimals(value) {
  if (value < 9.995) return value.toFixed(2);
  if (value < 99.95) return value.toFixed(1);
  return grouped(value.toFixed(0));
}

function grouped(digits) {
  return digits.replace(/\B(?=(\d{3})+$)/g, THIN);
}
