// The page as it lives: it loads, goes on, sorts, filters, and outlives the agent.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Agent, clear, cpus, row, stage, until, visit } from "./stage.mjs";

let all;

before(async () => {
  all = await stage((work) => {
    const { first, last } = cpus();
    const labels = { busy: work.group("busy"), other: work.group("other"), held: work.limited("held", 0.1) };
    work.spin(labels.busy, 3, first);
    work.spin(labels.other, 1, first);
    work.spin(labels.held, 1, last);
    return labels;
  });
});

after(() => clear(all));

const only = () => `#filter=${encodeURIComponent(all.work.parent)}`;
const names = (page) => page.locator("table.lost tbody .main").allTextContents();
const number = (text) => Number(/[\d.]+/.exec(text.replaceAll("\u202f", ""))[0]);

test("it loads, and shows what the agent says", async () => {
  const page = await visit(all);
  await row(page, "busy").waitFor();
  assert.equal(await page.title(), "Stallscope");
  await page.locator("#link.live").waitFor();
  const topology = await all.agent.ask("topology");
  await until("every online CPU is drawn", async () => (await page.locator(".core i").count()) >= 1);
  const online = await page.locator(".core i").count();
  const listed = topology.levels.find(({ level }) => level === "core").groups.length;
  assert.ok(online >= listed, `${online} CPUs, ${listed} cores`);
  for (const { level, source } of topology.levels) {
    // By its name: the reason why another is not reported may name it too.
    const name = page.locator("dt", { hasText: { llc: "last-level cache", node: "NUMA node" }[level] ?? level });
    const shown = page.locator(".levels div", { has: name }).first();
    assert.equal(await shown.getByText("not reported").count(), source === "none" ? 1 : 0, level);
    assert.equal(await shown.getByText("a guess").count(), source === "shared_cpu_list" ? 1 : 0, level);
  }
  const status = await all.agent.ask("status");
  for (const probe of status.probes) {
    const shown = page.locator(".probes > li", { has: page.locator("b", { hasText: new RegExp(`^${probe.probe}$`) }) });
    for (const hook of probe.hooks ?? []) {
      const text = await shown.locator("li", { hasText: hook.hook }).first().textContent();
      assert.ok(text.includes(hook.state) && text.includes(hook.reason ?? hook.error ?? hook.by.join(" + ")), text);
    }
  }
  await page.locator("#agent .figures", { hasText: "resident" }).waitFor();
  assert.deepEqual(page.wrong, []);
  await page.context().close();
});

test("every path of the agent is at its foot", async () => {
  const page = await visit(all);
  const unknown = await (await fetch(`${all.agent.url}nothing`)).text();
  const paths = [...unknown.matchAll(/^ {2}(\/\S*)/gm)].map(([, path]) => path);
  assert.ok(paths.includes("/metrics"), unknown);
  const links = await page.locator("footer a").evaluateAll((links) => links.map((link) => link.getAttribute("href")));
  assert.deepEqual(links, paths);
  await page.context().close();
});

test("it goes on by itself, one question at a time, and rests while nobody looks", async () => {
  const page = await visit(all, only());
  const asked = () => page.asked.filter(({ path }) => path.endsWith("/top")).length;
  const shown = () => page.locator(".summary .quiet").first().textContent();
  const [first, before] = [await shown(), asked()];
  await until("the numbers change", async () => (await shown()) !== first);
  await until("three more questions", () => asked() >= before + 3);
  const times = page.asked.filter(({ path }) => path.endsWith("/top")).map(({ at }) => at);
  const steps = times.slice(1).map((at, index) => at - times[index]);
  // Each is seen a little late on a busy machine; all together say whether it waits between questions.
  assert.ok((times.at(-1) - times[0]) / steps.length >= 1_000, `asked after ${steps} ms`);
  assert.equal(page.atOnce, 1);

  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  await hide(true);
  await sleep(500);
  const resting = page.asked.length;
  await sleep(5_000);
  assert.equal(page.asked.length, resting, "questions while hidden");
  await hide(false);
  await until("it asks again", () => page.asked.length > resting);
  assert.deepEqual(page.wrong, []);
  await page.context().close();
});

test("it can be paused", async () => {
  const page = await visit(all, only());
  await until("all has been asked for once", () => page.asked.some(({ path }) => path.endsWith("/status")));
  await page.getByRole("button", { name: "Pause" }).click();
  await sleep(500);
  const resting = page.asked.length;
  await sleep(5_000);
  assert.equal(page.asked.length, resting, "questions while paused");
  assert.equal(await page.locator("#link").textContent(), "Paused");
  assert.match(await page.locator("#age").textContent(), /\d+\ss old/);
  // What is chosen now is answered all the same.
  await page.locator("#window label", { hasText: /^5 min$/ }).click();
  await until("the longer window is asked for", () => page.asked.at(-1).query.get("window") === "5m");
  await page.getByRole("button", { name: "Pause" }).click();
  await page.locator("#link.live").waitFor();
  await page.context().close();
});

test("columns sort, both ways", async () => {
  const page = await visit(all, only());
  await row(page, "other").waitFor();
  const column = (title) => page.getByRole("columnheader", { name: title });
  const values = async (key) => (await page.locator(`table.lost td.k-${key}`).allTextContents()).map(number);
  const falls = (list) => list.every((value, at) => at === 0 || value <= list[at - 1]);

  assert.equal(await column("Lost").getAttribute("aria-sort"), "descending");
  assert.ok(falls(await values("lost")), String(await values("lost")));
  await column("CPUs").getByRole("button").click();
  assert.equal(await column("CPUs").getAttribute("aria-sort"), "descending");
  assert.equal(await column("Lost").getAttribute("aria-sort"), null);
  assert.ok(falls(await values("cpu")), String(await values("cpu")));
  await column("CPUs").getByRole("button").click();
  assert.equal(await column("CPUs").getAttribute("aria-sort"), "ascending");
  assert.ok(falls((await values("cpu")).reverse()), String(await values("cpu")));

  await column("Name").getByRole("button").click();
  const ours = (await names(page)).filter((name) => ["busy", "held", "other"].includes(name));
  assert.deepEqual(ours, ["busy", "held", "other"]);
  await column("Name").getByRole("button").click();
  assert.deepEqual((await names(page)).filter((name) => ours.includes(name)), ["other", "held", "busy"]);
  assert.match(page.url(), /sort=name&.*order=down|order=down.*sort=name/);
  await page.context().close();
});

test("the filter takes names and causes, and is in the address", async () => {
  const page = await visit(all);
  await row(page, "held").waitFor();
  const filter = page.getByRole("searchbox", { name: "Filter" });
  await filter.fill(`${all.work.parent} BUSY`);
  await until("one row is left", async () => (await names(page)).join() === "busy");
  assert.equal(new URLSearchParams(new URL(page.url()).hash.slice(1)).get("filter"), `${all.work.parent} BUSY`);
  await filter.fill(`${all.work.parent} throttled`);
  await until("the throttled one is found", async () => (await names(page)).join() === "held");
  await filter.fill("no such thing");
  await page.getByText(/None of \d+ has “no such thing”/).waitFor();
  await page.getByRole("button", { name: "Clear the filter" }).click();
  await row(page, "busy").waitFor();
  assert.equal(await filter.inputValue(), "");
  assert.equal(new URL(page.url()).hash, "");
  await page.context().close();
});

test("the window is chosen, asked for, and in the address", async () => {
  const page = await visit(all, only());
  for (const [name, window] of [["5 min", "5m"], ["15 min", "15m"], ["1 h", "1h"], ["1 min", "60s"]]) {
    await page.locator("#window label", { hasText: new RegExp(`^${name}$`) }).click();
    await until(`${window} is asked for`, () => page.asked.at(-1)?.query.get("window") === window);
    const given = new URLSearchParams(new URL(page.url()).hash.slice(1)).get("window");
    assert.equal(given, window === "60s" ? null : window);
  }
  // The agent has just begun: what is recorded is said.
  await page.locator("#window label", { hasText: /^1 h$/ }).click();
  await page.getByText(/of 60\smin no more is recorded/).waitFor();
  assert.deepEqual(page.wrong, []);
  await page.context().close();
});

test("a link shows what was shown", async () => {
  const page = await visit(all, `#window=5m&sort=cpu&order=up&filter=${encodeURIComponent(all.work.parent)}`);
  assert.ok(await page.getByRole("radio", { name: "5 min", exact: true }).isChecked());
  assert.equal(await page.getByRole("columnheader", { name: "CPUs" }).getAttribute("aria-sort"), "ascending");
  assert.equal(await page.getByRole("searchbox").inputValue(), all.work.parent);
  const nonsense = await visit(all, "#window=9y&sort=%00&order=&by=x&is.=&filter=");
  assert.ok(await nonsense.getByRole("radio", { name: "1 min", exact: true }).isChecked());
  assert.deepEqual(nonsense.wrong, []);
  await page.context().close();
  await nonsense.context().close();
});

test("it outlives the agent", async () => {
  const page = await visit(all, only());
  await row(page, "busy").waitFor();
  await all.agent.stop();
  await page.locator("#link.lost", { hasText: "No connection to the agent: nothing answers there" }).waitFor();
  await page.locator("#age", { hasText: /numbers are \d+\ss old, trying again/ }).waitFor();
  assert.ok((await names(page)).includes("busy"), "the last numbers stay");
  const gone = page.asked.length;
  await until("it tries again", () => page.asked.length >= gone + 3);
  const waits = page.asked.slice(gone).map(({ at }, index, rest) => (index === 0 ? 0 : at - rest[index - 1].at)).slice(1);
  assert.ok(waits.every((wait) => wait >= 900), `tried after ${waits} ms`);
  assert.ok(waits.at(-1) > waits[0] * 1.5, `waits of ${waits} ms do not grow`);

  all.agent = await Agent.start(all.agent.port);
  const retry = page.getByRole("button", { name: "Try now" });
  if (await retry.isVisible()) await retry.click().catch(() => {});
  await page.locator("#link.live").waitFor();
  assert.equal(await page.locator("#age").textContent(), "");
  await until("its numbers are new", async () => /(\d+)\ss to .*recorded/.test(await page.locator(".summary .quiet").first().textContent()));
  await row(page, "busy").waitFor();
  assert.deepEqual(page.wrong.filter((text) => !text.includes("ERR_CONNECTION")), []);
  await page.context().close();
});
