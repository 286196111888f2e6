// The Logs tab as a hand and an eye meet it: rows lie where the list says, and following stops and goes on.
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bed, type Bed } from "./bed";
import { recordings } from "./recordings";

let the: Bed;
beforeAll(async () => {
  the = await bed();
});
afterAll(() => the.close());

const LOGS = "[role=log]";
const scroll = (page: Page, to: number): Promise<void> => page.$eval(LOGS, (list, at) => void (list.scrollTop = at), to);
const after = (page: Page): Promise<number> => page.$eval(LOGS, (list) => Math.round(list.scrollHeight - list.clientHeight - list.scrollTop));

test.each([1280, 720])("at %i pixels rows fill the window without gaps, from the first line to the last", async (width) => {
  const page = await the.open(`build/${recordings["docs-export"]}?tab=logs`, {}, { width, height: 600 });
  await page.waitForSelector(`${LOGS} >> text=link 1 of`);
  const height = await page.$eval(LOGS, (list) => list.scrollHeight);
  for (const share of [0, 0.31, 0.5, 0.77, 1]) {
    await scroll(page, share * height);
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
    const covered = await page.$eval(LOGS, (list) => {
      const window = list.getBoundingClientRect();
      const rows = [...(list.lastElementChild?.firstElementChild?.children ?? [])].map((row) => row.getBoundingClientRect());
      return { above: Math.round((rows[0]?.top ?? 0) - window.top), below: Math.round((rows.at(-1)?.bottom ?? 0) - window.bottom), height: list.scrollHeight };
    });
    expect(covered.above).toBeLessThanOrEqual(0);
    // At the end the last row ends where the window does: no height was guessed wrong on the way.
    if (share === 1) expect(Math.abs(covered.below)).toBeLessThanOrEqual(1);
    else expect(covered.below).toBeGreaterThanOrEqual(0);
    expect(covered.height).toBe(height);
  }
  await page.context().close();
});

test("it follows what is printed until somebody scrolls back, and again from the end on", async () => {
  const live = `live${(recordings["webshop-first"] ?? "").slice(4)}`;
  const page = await the.open(`build/${live}?tab=logs`, { live: { name: "webshop-first", share: 0.62 }, flood: { perSecond: 2000, seconds: 60 } });
  await page.waitForFunction(() => /\[[3-9]\d\d\d\]/.test(document.querySelector("[role=log]")?.textContent ?? ""));
  const follow = page.getByRole("checkbox", { name: "Follow" });
  expect(await after(page)).toBeLessThan(60);
  await page.hover(LOGS);
  await page.mouse.wheel(0, -900);
  await expect.poll(() => follow.isChecked()).toBe(false);
  const line = await page.$eval(LOGS, (list) => document.elementFromPoint(list.getBoundingClientRect().left + 60, list.getBoundingClientRect().top + 40)?.textContent);
  const before = await after(page);
  await expect.poll(() => after(page)).toBeGreaterThan(before + 5000);
  // What is read stays where it is.
  expect(await page.$eval(LOGS, (list) => document.elementFromPoint(list.getBoundingClientRect().left + 60, list.getBoundingClientRect().top + 40)?.textContent)).toBe(line);
  await scroll(page, 1e9);
  await expect.poll(() => follow.isChecked()).toBe(true);
  await page.fill("[aria-label='Search logs']", "[2500]");
  await page.waitForSelector(`${LOGS} mark >> text=[2500]`);
  expect(await page.locator(`${LOGS} mark`).count()).toBe(1);
  await page.context().close();
});
