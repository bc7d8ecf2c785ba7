// The levels of the machine as boxes in boxes, whichever of them it reports, and in whichever order they nest.

/** Widest first, where two levels have groups of the same size. */
const ORDER = ["package", "node", "die", "llc", "cluster"];

/** The CPUs of a list such as `0-3,8`. */
export function cpuList(text) {
  const cpus = [];
  for (const part of text.split(",").filter(Boolean)) {
    const [first, last] = part.split("-").map(Number);
    for (let cpu = first; cpu <= (last ?? first); cpu += 1) cpus.push(cpu);
  }
  return cpus;
}

/**
 * The machine as one box: `names` of the groups that it is, its `cpus` as cores with their siblings, and either the
 * boxes within it or none. Groups that hold the same CPUs are one box with several names, save that a node is always
 * the innermost of the names it is in.
 */
export function boxes(topology) {
  if (!drawn.has(topology)) drawn.set(topology, find(topology));
  return drawn.get(topology);
}

/** Machines do not change, but are drawn again and again. */
const drawn = new WeakMap();

function find(topology) {
  const groups = Object.fromEntries(
    topology.levels.map(({ level, groups }) => [level, groups.map(({ id, cpus }) => ({ level, id, cpus: cpuList(cpus) }))]),
  );
  const cores = groups.core?.map((core) => core.cpus) ?? [];
  const wide = (level) => mean(groups[level].map((group) => group.cpus.length));
  const levels = ORDER.filter((level) => groups[level]?.length > 0)
    // A cluster that is a core says nothing.
    .filter((level) => level === "node" || wide(level) > mean(cores.map((core) => core.length)))
    .sort((a, b) => wide(b) - wide(a));
  const within = box(cpuList(topology.cpus.online), levels.map((level) => groups[level]), cores);
  const bare = topology.nodes.filter((node) => cpuList(node.cpus).length === 0);
  const empty = bare.map((node) => ({ names: [{ level: "node", id: node.id }], cores: [], within: [] }));
  return empty.length === 0 ? within : { names: [], cores: [], within: [...(within.names.length > 0 ? [within] : within.within), ...empty] };
}

function box(cpus, levels, cores) {
  const names = [];
  for (let at = 0; at < levels.length; at += 1) {
    const here = levels[at].map((group) => ({ ...group, cpus: group.cpus.filter((cpu) => cpus.includes(cpu)) }));
    const inside = here.filter((group) => group.cpus.length > 0);
    if (inside.length === 1 && inside[0].cpus.length === cpus.length) {
      names.push(inside[0]);
    } else if (inside.length > 0) {
      const rest = levels.slice(at + 1);
      return {
        names,
        cores: [],
        within: inside.map((group) => {
          const child = box(group.cpus, rest, cores);
          return { ...child, names: [group, ...child.names] };
        }),
      };
    }
  }
  const mine = cores.map((core) => core.filter((cpu) => cpus.includes(cpu))).filter((core) => core.length > 0);
  return { names, cores: mine.length > 0 ? mine : cpus.map((cpu) => [cpu]), within: [] };
}

function mean(numbers) {
  return numbers.length > 0 ? numbers.reduce((a, b) => a + b, 0) / numbers.length : 0;
}
