// Work in cgroups of its own, of which the agent tells.

import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** Where the agent follows cgroups: the cpu controller of v1, or v2. */
function mount() {
  const mounts = fs.readFileSync("/proc/self/mounts", "utf8").split("\n").map((line) => line.split(" "));
  const v1 = mounts.find(([, , type, options]) => type === "cgroup" && options.split(",").includes("cpu"));
  const found = v1 ?? mounts.find(([, , type]) => type === "cgroup2");
  if (!found) throw new Error("no cgroup hierarchy is mounted");
  return { dir: found[1], v1: Boolean(v1) };
}

/** Cgroups below one of their own, all removed with their tasks by `remove`. */
export class Load {
  /** The label of the cgroup above. */
  parent = `/${process.env.STALLSCOPE_TEST_PARENT ?? `stallscope-page-${process.pid}`}`;
  #mount = mount();
  #dirs = [];
  #tasks = [];

  constructor() {
    this.#hand(this.#mount.dir);
    this.#make(this.parent);
    this.#hand(this.#path(this.parent));
  }

  /** Makes a cgroup; returns its label. */
  group(name) {
    const label = `${this.parent}/${name}`;
    this.#make(label);
    return label;
  }

  /** Makes one that may take so many CPUs' worth of time, and comes before all others until it has. */
  limited(name, cpus) {
    const above = `${this.parent}-first`;
    this.#make(above);
    this.#hand(this.#path(above));
    const label = `${above}/${name}`;
    this.#make(label);
    this.#limit(label, cpus);
    for (const each of [above, label]) this.#prefer(each);
    return label;
  }

  #limit(label, cpus) {
    const quota = Math.round(cpus * 100_000);
    const [file, text] = this.#mount.v1 ? ["cpu.cfs_quota_us", quota] : ["cpu.max", `${quota} 100000`];
    fs.writeFileSync(path.join(this.#path(label), file), String(text));
  }

  /** What it loses is not to be lost to what else this machine does. */
  #prefer(label) {
    const [file, text] = this.#mount.v1 ? ["cpu.shares", "100000"] : ["cpu.weight", "10000"];
    fs.writeFileSync(path.join(this.#path(label), file), text);
  }

  /** Starts that many shells in it that only count, on one CPU. */
  spin(label, count, cpu) {
    for (let each = 0; each < count; each += 1) {
      const procs = path.join(this.#path(label), "cgroup.procs");
      const script = 'echo $$ > "$1" && while :; do :; done';
      this.#tasks.push(spawn("taskset", ["-c", String(cpu), "sh", "-c", script, "sh", procs], { stdio: "ignore" }));
    }
  }

  /** Ends all tasks and removes all cgroups. */
  async remove() {
    for (const task of this.#tasks) task.kill("SIGKILL");
    for (const dir of this.#dirs.reverse()) {
      for (let tries = 0; fs.existsSync(dir); tries += 1) {
        try {
          fs.rmdirSync(dir);
        } catch (error) {
          if (tries > 100) throw error;
          await sleep(20);
        }
      }
    }
  }

  #make(label) {
    fs.mkdirSync(this.#path(label));
    this.#dirs.push(this.#path(label));
  }

  /** On v2 a cgroup has a quota only where those above hand the controller on. */
  #hand(dir) {
    if (!this.#mount.v1) fs.writeFileSync(path.join(dir, "cgroup.subtree_control"), "+cpu");
  }

  #path(label) {
    return path.join(this.#mount.dir, label);
  }
}
