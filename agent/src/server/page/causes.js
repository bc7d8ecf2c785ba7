// What takes time away: in the order and colour in which it is always shown, and what it means.

/** Cause, with a name of its own colour in the style sheet, and who kept the task from its work. */
export const CAUSES = [
  ["throttled", "throttled", "the CPU quota was used up, its own or that of a cgroup above"],
  ["own", "own", "its own threads, or those of the same pod or service, had the CPU"],
  ["neighbour", "neighbour", "another container or cgroup had the CPU"],
  ["host", "host", "a service of the host had the CPU"],
  ["kernel", "kernel", "a kernel thread had the CPU"],
  ["kswapd", "kswapd", "the kernel was freeing memory in the background"],
  ["kcompactd", "kcompactd", "the kernel was moving memory together in the background"],
  ["khugepaged", "khugepaged", "the kernel was making huge pages in the background"],
  ["direct_reclaim", "direct reclaim", "the task itself had to free memory of the host"],
  ["memcg_reclaim", "memcg reclaim", "the task itself had to free memory to stay below its limit"],
  ["compaction", "compaction", "the task itself had to move memory together"],
  ["idle", "idle", "nobody: the CPU had yet to wake"],
  ["unattributed", "unattributed", "not known"],
  ["node_migrations", "moved between nodes", "an estimate: it ran after being moved to another NUMA node"],
  ["remote_memory", "remote memory", "an estimate: it ran on memory of another NUMA node"],
].map(([key, name, meaning]) => ({ key, name, meaning }));

const BY_KEY = new Map(CAUSES.map((cause) => [cause.key, cause]));

/** The cause of that name. A newer agent may know more than this page: those have no colour of their own. */
export function cause(key) {
  return BY_KEY.get(key) ?? { key, name: key.replaceAll("_", " "), meaning: "" };
}

/** The class that gives its colour. */
export function colour(key) {
  return BY_KEY.has(key) ? `c-${key}` : "c-unattributed";
}

/** The parts of a split in the order in which they are always shown, without those that are nothing. */
export function ordered(split) {
  const rank = (key) => {
    const at = CAUSES.findIndex((cause) => cause.key === key);
    return at < 0 ? CAUSES.length : at;
  };
  return Object.entries(split)
    .filter(([, value]) => value > 0)
    .sort(([a], [b]) => rank(a) - rank(b));
}
