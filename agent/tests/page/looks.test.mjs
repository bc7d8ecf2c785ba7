// How it looks: to whoever sees all of it, little of it, in the dark, other colours, or nothing.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { smallest } from "./colours.mjs";
import { AXE, EVIL, clear, cpus, picture, row, stage, until, visit } from "./stage.mjs";

let all;
const { first, last } = cpus();

before(async () => {
  all = await stage((work) => ({ checkout: work.limited("checkout", 0.2), search: work.group("search"), cart: work.group("cart"), evil: work.group(EVIL) }));
});

after(() => clear(all));

const only = () => `#filter=${encodeURIComponent(all.work.parent)}`;
const SIZES = [["wide", { width: 1440, height: 900 }], ["phone", { width: 360, height: 740 }]];
const THEMES = [["light", false], ["dark", true]];

async function sound(page, where) {
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false, `${where}: scrolls sideways`);
  const wide = await page.evaluate(() => [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && !one.closest(".scroll, .spoken, svg") && one.getBoundingClientRect().right > innerWidth + 1)
    .map((one) => one.outerHTML.slice(0, 100))
    .slice(0, 5));
  assert.deepEqual(wide, [], `${where}: beyond the edge`);
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const said = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 120)} ${failureSummary}`).join("; ")}`);
  assert.deepEqual(said, [], where);
}

/** Folds everything in the detail out, or in. */
async function folded(page, out) {
  await page.locator("#detail details").evaluateAll((all, out) => all.forEach((one) => (one.open = out)), out);
  if (out) await page.locator("#detail .scroll").waitFor();
  await page.locator("#detail").evaluate((detail) => (detail.scrollTop = 0));
}

test("at rest it is calm", async () => {
  const page = await visit(all, only(), { width: 1440 });
  await page.locator("#agent .probes").waitFor();
  await picture(page, "idle", { fullPage: true });
  assert.deepEqual(page.wrong, []);
  await page.context().close();
});

test("under every load, in every size and light, it can be read and heard", async () => {
  const { labels, work } = all;
  work.spin(labels.checkout, 2, last);
  work.spin(labels.search, 3, first);
  work.spin(labels.cart, 1, first);
  work.spin(labels.evil, 1, first);
  await sleep(20_000);
  for (const [size, view] of SIZES) {
    for (const [light, dark] of THEMES) {
      const page = await visit(all, only(), { ...view, dark });
      await until("all is drawn", async () => (await page.locator(".boxes .box").count()) > 0 && (await page.locator(".probes li").count()) > 0);
      await row(page, "checkout").waitFor();
      await sound(page, `list, ${size}, ${light}`);
      await picture(page, `list-${size}-${light}`, { fullPage: size === "wide" });
      for (const name of size === "wide" && !dark ? ["checkout", "search", "cart"] : ["checkout"]) {
        await row(page, name).getByRole("button").click();
        await until(`${name} is drawn`, async () => (await page.locator("#detail-title .main").textContent()) === name && (await page.locator("#detail .plot svg").count()) === 1 && (await page.locator("#detail .causes > li").count()) > 0);
        await folded(page, true);
        await sound(page, `${name}, ${size}, ${light}`);
        await folded(page, false);
        await picture(page, `${name}-${size}-${light}`, { fullPage: size === "phone" });
        await page.keyboard.press("Escape");
      }
      assert.deepEqual(page.wrong, []);
      await page.context().close();
    }
  }
});

test("the colours of the causes are told apart by everybody", async () => {
  for (const [light, dark] of THEMES) {
    const page = await visit(all, only(), { dark });
    const colours = await page.evaluate(async () => {
      const { CAUSES } = await import("./page/causes.js");
      const style = getComputedStyle(document.documentElement);
      return CAUSES.map(({ key }) => [key, style.getPropertyValue(`--${key}`).trim()]).filter(([, colour]) => colour);
    });
    assert.equal(colours.length, 13);
    const { distance, between } = smallest(colours);
    assert.ok(distance >= 0.085, `${light}: ${between} are ${distance.toFixed(3)} apart`);
    await page.context().close();
  }
});

test("every cause that the agent can name has a colour and a meaning", async () => {
  const page = await visit(all);
  const known = await page.evaluate(async () => (await import("./page/causes.js")).CAUSES.map(({ key }) => key));
  const metrics = await (await fetch(`${all.agent.url}metrics`)).text();
  const named = new Set([...metrics.matchAll(/^stallscope_(?:task_)?stall_seconds_total\{.*cause="(\w+)"/gm)].map(([, cause]) => cause));
  assert.ok(named.size >= 10, [...named].join());
  assert.deepEqual([...named].filter((cause) => !known.includes(cause)), []);
  await page.context().close();
});

test("numbers are short and honest", async () => {
  const page = await visit(all);
  const shown = await page.evaluate(async () => {
    const { bytes, count, cpus, percent, seconds } = await import("./page/format.js");
    const plain = (text) => text.replaceAll("\u202f", " ");
    return {
      seconds: [null, 0, 0.0049, 0.005, 1.234, 9.996, 12.34, 1234.5].map(seconds).map(plain),
      percent: [null, 0, 0.0004, 0.0123, 0.5, 0.9996, 1].map(percent).map(plain),
      bytes: [undefined, 0, 1023, 1024, 25276514304].map(bytes).map(plain),
      others: [count(1234567), cpus(0), cpus(0.001), cpus(NaN)].map(plain),
    };
  });
  assert.deepEqual(shown, {
    seconds: ["–", "0 s", "< 0.01 s", "0.01 s", "1.23 s", "10.0 s", "12.3 s", "1 235 s"],
    percent: ["–", "0 %", "< 0.1 %", "1.2 %", "50 %", "100.0 %", "100 %"],
    bytes: ["–", "0 B", "1023 B", "1.00 KiB", "23.5 GiB"],
    others: ["1 234 567", "0", "< 0.01", "–"],
  });
  await page.context().close();
});

test("machines of every shape are drawn", async () => {
  const page = await visit(all);
  const drawn = await page.evaluate(async () => {
    const { boxes } = await import("./page/levels.js");
    const level = (level, ...lists) => ({ level, source: "sysfs", reason: null, groups: lists.map((cpus, id) => ({ id, cpus })) });
    const machine = (online, nodes, ...levels) => ({ cpus: { online }, nodes: nodes.map((cpus, id) => ({ id, cpus })), levels });
    const text = ({ names, cores, within }) => `${names.map(({ level, id }) => level[0] + id).join("")}[${within.length > 0 ? within.map(text).join("") : cores.map((core) => core.join("+")).join(" ")}]`;
    return [
      // Two packages of two nodes each; clusters that are cores; threads side by side.
      machine("0-7", ["0-1", "2-3", "4-5", "6-7"], level("core", "0,1", "2,3", "4,5", "6,7"), level("cluster", "0,1", "2,3", "4,5", "6,7"), level("node", "0-1", "2-3", "4-5", "6-7"), level("package", "0-3", "4-7")),
      // One node over two packages.
      machine("0-3", ["0-3"], level("core", "0", "1", "2", "3"), level("node", "0-3"), level("package", "0-1", "2-3")),
      // A cache over two nodes, and a node with memory alone.
      machine("0-3", ["0-1", "2-3", ""], level("core", "0", "1", "2", "3"), level("llc", "0-3"), level("node", "0-1", "2-3"), level("package", "0-3")),
      // Nothing but CPUs.
      machine("0,2", ["0,2"], level("node", "0,2")),
    ].map((one) => text(boxes(one)));
  });
  assert.deepEqual(drawn, [
    "[p0[n0[0+1]n1[2+3]]p1[n2[4+5]n3[6+7]]]",
    "n0[p0[0 1]p1[2 3]]",
    "[p0l0[n0[0 1]n1[2 3]]n2[]]",
    "n0[0 2]",
  ]);
  await page.context().close();
});
