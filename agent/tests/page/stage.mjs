// The real agent, work for it to see, and a browser to look at its page.

import { spawn } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Load } from "./load.mjs";

const given = (name) => process.env[name] ?? fail(`${name} is not set: these tests are run by \`cargo xtask test page\``);
const require = createRequire(path.join(given("STALLSCOPE_TEST_MODULES"), "/"));
const { chromium } = require("playwright-core");

/** The audit of accessibility, as text to run in the page. */
export const AXE = fs.readFileSync(require.resolve("axe-core"), "utf8");
/** A name that would be a program, were it taken for HTML. */
export const EVIL = "<img src=x onerror=alert(1)>";
/** Longer than anything here takes. */
export const LONG = 30_000;

const QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

function fail(why) {
  throw new Error(why);
}

/** The agent under test. */
export class Agent {
  static async start(port = null) {
    const agent = new Agent();
    agent.port = port ?? (await freePort());
    agent.url = `http://127.0.0.1:${agent.port}/`;
    agent.process = spawn(given("STALLSCOPE_TEST_AGENT"), ["run", "--listen", `127.0.0.1:${agent.port}`, "--doctor", "off"], { stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    agent.process.stderr.on("data", (text) => (said += text));
    for (const start = Date.now(); !(await agent.ready()); await sleep(100)) {
      if (agent.process.exitCode !== null || Date.now() - start > LONG) throw new Error(`the agent does not start: ${said}`);
    }
    return agent;
  }

  async ready() {
    return fetch(`${this.url}api/v1/top`).then((answer) => answer.ok, () => false);
  }

  /** What it answers itself. */
  async ask(question) {
    return (await fetch(`${this.url}api/v1/${question}`)).json();
  }

  async stop() {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    this.process.kill("SIGTERM");
    await ended;
  }
}

async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** All of it. `load` is called with the cgroups before the agent is. */
export async function stage(load) {
  const work = new Load();
  try {
    const labels = load(work);
    const agent = await Agent.start();
    const browser = await chromium.launch({ executablePath: given("STALLSCOPE_TEST_BROWSER"), args: QUIET });
    return { work, labels, agent, browser };
  } catch (error) {
    await work.remove();
    throw error;
  }
}

/** Ends it. */
export async function clear({ work, agent, browser }) {
  await browser.close();
  await agent.stop();
  await work.remove();
}

/**
 * Opens the page and waits until it shows something. What goes wrong in it, and what it asks of others, is in
 * `wrong`; what it asks the agent in `asked`.
 */
export async function visit({ browser, agent }, hash = "", { width = 1280, height = 900, dark = false, ...more } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", ...more });
  const page = await context.newPage();
  page.setDefaultTimeout(LONG);
  page.wrong = [];
  page.asked = [];
  page.atOnce = 0;
  let open = 0;
  page.on("pageerror", (error) => page.wrong.push(error.message));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && page.wrong.push(message.text()));
  page.on("dialog", (dialog) => page.wrong.push(`dialog: ${dialog.message()}`) && dialog.dismiss());
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (!request.url().startsWith(agent.url)) page.wrong.push(`asked ${request.url()}`);
    if (!url.pathname.startsWith("/api/")) return;
    page.asked.push({ path: url.pathname, query: url.searchParams, at: Date.now() });
    open += 1;
    page.atOnce = Math.max(page.atOnce, open);
  });
  const closed = (request) => new URL(request.url()).pathname.startsWith("/api/") && (open -= 1);
  page.on("requestfinished", closed);
  page.on("requestfailed", closed);
  await page.goto(agent.url + hash);
  await page.locator("table.lost tbody tr, #lost .empty button").first().waitFor();
  return page;
}

/** The row of a cgroup of that name. */
export function row(page, name) {
  return page.locator("table.lost tbody tr", { has: page.locator(".main", { hasText: new RegExp(`^${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`) }) });
}

/** Waits until `check` gives something. */
export async function until(what, check) {
  for (const start = Date.now(); Date.now() - start < LONG; await sleep(100)) {
    const found = await check();
    if (found) return found;
  }
  throw new Error(`not within ${LONG / 1000} s: ${what}`);
}

/** A picture to look at, in a folder for them; of whoever started this, also through sudo. */
export async function picture(page, name, options = {}) {
  const file = path.join(given("STALLSCOPE_TEST_PICTURES"), `${name}.png`);
  await page.screenshot({ path: file, ...options });
  const { SUDO_UID: uid, SUDO_GID: gid } = process.env;
  if (uid && gid) fs.chownSync(file, Number(uid), Number(gid));
}

/** CPUs that this process may run on. */
export function cpus() {
  const [, allowed] = /^Cpus_allowed_list:\s*(\S+)/m.exec(fs.readFileSync("/proc/self/status", "utf8"));
  const ends = allowed.split(/[-,]/).map(Number);
  return { first: ends[0], last: ends.at(-1) };
}
