// One cgroup's page: when it lost time, why, and that its name is only ever text.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { EVIL, clear, cpus, row, stage, until, visit } from "./stage.mjs";

let all;

before(async () => {
  all = await stage((work) => {
    const { first, last } = cpus();
    const labels = { held: work.limited("held", 0.1), crowded: work.group("crowded"), next: work.group("next"), evil: work.group(EVIL), calm: work.group("calm") };
    work.spin(labels.held, 1, last);
    work.spin(labels.crowded, 4, first);
    work.spin(labels.next, 1, first);
    work.spin(labels.evil, 1, first);
    return labels;
  });
  // Enough of a record to explain.
  await sleep(8_000);
});

after(() => clear(all));

const only = () => `#filter=${encodeURIComponent(all.work.parent)}`;
const open = async (page, name) => {
  await row(page, name).getByRole("button").click();
  await page.locator("#detail .verdict").waitFor();
};
const first = (page) => page.locator("#detail .causes > li").first();

test("a click says why, what speaks for it, and what to do", async () => {
  const page = await visit(all, only());
  for (const [name, cause] of [["held", "throttled"], ["crowded", "own"]]) {
    await open(page, name);
    await until(`${name} is explained`, async () => (await page.locator("#detail-title .main").textContent()) === name && (await first(page).count()) === 1);
    const said = await all.agent.ask(`explain?cgroup=${encodeURIComponent(all.labels[name])}`);
    const causes = said.causes.map((one) => one.cause);
    // On a busy machine others may take more than its own threads, but nothing but a quota throttles.
    assert.ok(cause === "own" ? causes.includes(cause) : causes[0] === cause, `${name}: ${causes}`);
    await until("the agent's words are shown", async () => (await first(page).locator("h4").textContent()).includes(said.causes[0].title));
    assert.ok((await page.locator("#detail .verdict b").textContent()) === (said.unusual ? "Unusual" : "Nothing unusual"));
    assert.ok((await first(page).locator(".evidence li").count()) >= 1);
    assert.ok((await first(page).locator(".remedy li").count()) >= 1);
    const missing = page.locator("#detail .unmeasured");
    assert.equal(await missing.count(), said.not_measured.length > 0 ? 1 : 0);
    for (const { what, reason } of said.not_measured) {
      assert.ok((await missing.textContent()).includes(reason), what);
    }
  }
  assert.deepEqual(page.wrong, []);
  await page.context().close();
});

test("what is said of the share is what the agent counted", async () => {
  const page = await visit(all, only());
  await row(page, "held").waitFor();
  const { containers } = await all.agent.ask("top");
  const held = containers.find(({ labels }) => labels.cgroup === all.labels.held);
  const throttled = held.causes.throttled / held.lost_seconds;
  const bar = row(page, "held").locator(".bar");
  assert.match(await bar.getAttribute("aria-label"), /^throttled /);
  const widths = await bar.locator("i").evaluateAll((parts) => parts.map((part) => [part.className, part.getBoundingClientRect().width]));
  const sum = widths.reduce((total, [, width]) => total + width, 0);
  const [, drawn] = widths.find(([name]) => name === "c-throttled");
  assert.ok(Math.abs(drawn / sum - throttled) < 0.1, `${drawn / sum} drawn of ${throttled}`);
  await page.context().close();
});

test("commands can be copied", async () => {
  const page = await visit(all, only(), { permissions: ["clipboard-read", "clipboard-write"] });
  await open(page, "held");
  const copy = page.locator("#detail .command").first();
  await copy.waitFor();
  const command = await copy.locator("code").textContent();
  await copy.getByRole("button").click();
  await copy.getByText("Copied").waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), command);
  await page.context().close();
});

test("the timeline has a gap where nothing is recorded, and the same as a table", async () => {
  const page = await visit(all, `${only()}&window=5m`);
  await open(page, "held");
  const plot = page.locator("#detail .plot");
  await plot.waitFor();
  const timeline = await all.agent.ask(`timeline?window=5m&cgroup=${encodeURIComponent(all.labels.held)}`);
  const gaps = timeline.cpu_seconds.filter((value) => value === null).length;
  assert.equal((await page.locator("#detail rect.gap").count()) > 0, gaps > 0, `${gaps} seconds without a record`);
  assert.ok((await page.locator("#detail rect.c-throttled").count()) > 0);
  await page.locator("#detail summary", { hasText: "As a table" }).click();
  const rows = page.locator("#detail .scroll tbody tr");
  await rows.first().waitFor();
  assert.equal((await rows.filter({ hasText: "no record" }).count()) > 0, gaps > 0);
  const heads = await page.locator("#detail .scroll thead th").allTextContents();
  assert.ok(heads.includes("throttled"), String(heads));
  await page.context().close();
});

test("seconds without a record are a gap, and no zero", async () => {
  const page = await visit(all);
  const drawn = await page.evaluate(async () => {
    const { points } = await import("./page/timeline.js");
    const one = (steps, causes, cpu) => points({ start: 100, step_seconds: 1, steps, causes, cpu_seconds: cpu });
    const long = Array.from({ length: 240 }, (_, at) => (at === 10 ? null : at === 12 || at === 13 ? null : 0.5));
    return [one(3, { own: [0, null, 2] }, [1, null, 0]), one(240, { own: long }, long)];
  });
  assert.deepEqual(drawn[0].map(({ lost }) => lost), [0, null, 2]);
  assert.equal(drawn[1].length, 120);
  // One of two seconds is known: the other does not count as nothing.
  assert.deepEqual([drawn[1][5].lost, drawn[1][5].recorded], [0.5, 1]);
  assert.deepEqual([drawn[1][6].lost, drawn[1][6].recorded], [null, 0]);
  await page.context().close();
});

test("all of it works by keyboard", async () => {
  const page = await visit(all, only());
  await row(page, "held").waitFor();
  const focus = () => page.evaluate(() => {
    const one = document.activeElement;
    const style = getComputedStyle(one.matches("input[type=radio]") ? one.nextElementSibling : one);
    return { tag: one.tagName, text: one.textContent, sort: one.dataset.sort, name: one.classList.contains("name"), outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 };
  });
  const to = async (wanted) => {
    for (let steps = 0; steps < 60; steps += 1) {
      await page.keyboard.press("Tab");
      const at = await focus();
      assert.ok(at.outline || at.tag === "BODY", `the focus does not show on ${at.tag} ${at.text}`);
      if (wanted(at)) return at;
    }
    throw new Error("never reached by tab");
  };
  await to(({ tag }) => tag === "INPUT");
  await page.keyboard.press("ArrowRight");
  assert.ok(await page.getByRole("radio", { name: "5 min", exact: true }).isChecked());
  await page.keyboard.press("ArrowLeft");
  await to(({ sort }) => sort === "name");
  await page.keyboard.press("Enter");
  assert.equal(await page.getByRole("columnheader", { name: "Name" }).getAttribute("aria-sort"), "ascending");
  assert.equal((await focus()).sort, "name", "the focus stays when the table is drawn anew");

  await to(({ name }) => name);
  const names = await page.locator("button.name .main").allTextContents();
  for (let at = 0; at < names.indexOf("held"); at += 1) await page.keyboard.press("ArrowDown");
  assert.ok((await focus()).text.startsWith("held"), (await focus()).text);
  await page.keyboard.press("Enter");
  await page.locator("#detail .plot").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "detail-title");

  await page.locator("#detail .plot").focus();
  const [now, said] = [await page.locator(".plot").getAttribute("aria-valuenow"), await page.locator(".plot").getAttribute("aria-valuetext")];
  await page.keyboard.press("ArrowLeft");
  assert.equal(Number(await page.locator(".plot").getAttribute("aria-valuenow")), Number(now) - 1);
  assert.notEqual(await page.locator(".plot").getAttribute("aria-valuetext"), said);
  // The focus outlives a few rounds of new numbers.
  await sleep(5_000);
  assert.ok(await page.evaluate(() => document.activeElement.classList.contains("plot")));

  await page.keyboard.press("Escape");
  assert.ok(await page.locator("#detail").isHidden());
  assert.ok((await focus()).text.startsWith("held"), "the focus is back where it was");
  assert.equal(new URLSearchParams(new URL(page.url()).hash.slice(1)).get("is.cgroup"), null);
  await page.context().close();
});

test("the browser's back closes the detail, and a link opens it", async () => {
  const page = await visit(all, only());
  await open(page, "held");
  const link = page.url();
  assert.equal(new URLSearchParams(new URL(link).hash.slice(1)).get("is.cgroup"), all.labels.held);
  await page.goBack();
  await until("it is closed", () => page.locator("#detail").isHidden());
  const shared = await visit(all, new URL(link).hash);
  assert.equal(await shared.locator("#detail-title .main").textContent(), "held");
  await shared.locator("#detail .verdict").waitFor();
  const unknown = await visit(all, "#is.cgroup=%2Fno%2Fsuch%2Fcgroup");
  await until("what the agent says is shown", async () => (await unknown.locator("#detail .empty").allTextContents()).some((text) => text.includes("/no/such/cgroup")));
  for (const one of [page, shared, unknown]) await one.context().close();
});

test("names are text, whatever is in them", async () => {
  const page = await visit(all, only());
  await row(page, EVIL).waitFor();
  await open(page, EVIL);
  assert.equal(await page.locator("#detail-title .main").textContent(), EVIL);
  await page.locator("#detail .plot").waitFor();
  await page.getByRole("searchbox").fill(`${EVIL}<script>alert(2)</script>`);
  await page.getByText("<script>alert(2)</script>”").waitFor();
  await page.goto(`${all.agent.url}#is.cgroup=${encodeURIComponent(`/${EVIL}`)}&is.${encodeURIComponent("<b>x</b>")}=${encodeURIComponent("<i>y</i>")}`);
  await page.reload();
  await page.locator("#detail .empty").first().waitFor();
  await sleep(500);
  assert.equal(await page.locator("img, script:not([src]), b b, dd i").count(), 0);
  assert.deepEqual(page.wrong.filter((text) => !text.includes("400") && !text.includes("404")), []);
  // The policy would refuse it even if the page tried.
  const refused = await page.evaluate(() => {
    try {
      document.querySelector("main").innerHTML = "<p>x";
      return "done";
    } catch (error) {
      return error.name;
    }
  });
  assert.equal(refused, "TypeError");
  await page.context().close();
});
