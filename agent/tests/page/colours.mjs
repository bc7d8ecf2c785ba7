// How far apart colours are, for all kinds of sight.

// Machado, Oliveira and Fernandes (2009), severity 1.0.
const SIGHTS = {
  all: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
  "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
  "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
};

/** The two of the named colours that are nearest to each other, by their distance in Oklab. */
export function smallest(colours) {
  let found = { distance: Infinity, between: "" };
  for (const [sight, matrix] of Object.entries(SIGHTS)) {
    const seen = colours.map(([name, colour]) => [name, oklab(through(matrix, linear(colour)))]);
    for (const [at, [one, a]] of seen.entries()) {
      for (const [other, b] of seen.slice(at + 1)) {
        const distance = Math.hypot(...a.map((value, index) => value - b[index]));
        if (distance < found.distance) found = { distance, between: `${one} and ${other} (${sight})` };
      }
    }
  }
  return found;
}

function linear(colour) {
  return [1, 3, 5].map((at) => {
    const value = parseInt(colour.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
}

function through(matrix, [r, g, b]) {
  return matrix.map(([x, y, z]) => Math.min(1, Math.max(0, x * r + y * g + z * b)));
}

function oklab([r, g, b]) {
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}
