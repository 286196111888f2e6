// The keyboard alone: every dialog opens, is walked through and closes where it was opened; the history is one stop; and
// nothing moves for whom asked for that.
import { afterAll, beforeAll, expect, test } from "vitest";
import type { MockOptions } from "../../src/host/mock";
import { bed, type Bed } from "./bed";
import { recordings } from "./recordings";
import { axeFinds, byKeyboard, cutOff, ZOOMED } from "./reach";

let the: Bed;
beforeAll(async () => {
  the = await bed();
});
afterAll(() => the.close());

const LIVE: MockOptions = { live: { name: "webshop-first", share: 0.62 } };
const webshop = recordings["webshop-first"] ?? "";

interface Opening { name: string; route: string; options?: MockOptions; before?: [string, string]; opener: string; returns?: string }
const DIALOGS: Opening[] = [
  { name: "import a build", route: "builds", opener: "button:has-text('Import…')" },
  { name: "export a build", route: `build/${webshop}`, before: ["[aria-label='More actions']", "Enter"], opener: "text=Export as .dockerbuild…", returns: "[aria-label='More actions']" },
  { name: "pull", route: "images", opener: "button:has-text('Pull image')" },
  { name: "load", route: "images", opener: "button:has-text('Load…')" },
  { name: "save", route: "images", before: ["tbody input[type=checkbox]", "Space"], opener: "button:has-text('Save…')" },
  { name: "remove", route: "images", before: ["tbody input[type=checkbox]", "Space"], opener: "button:has-text('Remove…')" },
  { name: "free up space", route: "cache", opener: "button:has-text('Free up space…')" },
  { name: "export a mount", route: "cache?tab=mounts", opener: "button:has-text('Export…')" },
  { name: "import into a mount", route: "cache?tab=mounts", opener: "button:enabled:has-text('Import…')" },
  { name: "clear a mount", route: "cache?tab=mounts", opener: "button:has-text('Clear…')" },
  { name: "stop the machine", route: "machine", options: LIVE, opener: "button:has-text('Stop')" },
  { name: "reset the machine", route: "machine", opener: "button:has-text('Reset…')" },
  { name: "support bundle", route: "doctor", opener: "button:has-text('Support bundle…')" },
];

test.each(DIALOGS)("$name: by keyboard, at twice the size, back to what opened it", async ({ route, options, before, opener, returns }) => {
  for (const theme of ["light", "dark"] as const) {
    const page = await the.open(route, { ...options, theme }, ZOOMED);
    if (before) await page.locator(before[0]).first().press(before[1]);
    const button = page.locator(opener).first();
    await button.press("Enter");
    const dialog = page.locator("[role=dialog]");
    await dialog.waitFor();
    await page.waitForFunction(() => document.querySelector("[role=dialog]")?.contains(document.activeElement));
    const found = [...(await axeFinds(page)), ...(await cutOff(page)), ...(await byKeyboard(page))];
    expect(found, found.join("\n")).toEqual([]);
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    const back = await page.waitForFunction((at) => document.activeElement?.matches(at), returns ?? "button:not([role=dialog] *)", { timeout: 3000 }).then(() => true, () => false);
    expect(back, await page.evaluate(() => document.activeElement?.outerHTML.slice(0, 200))).toBe(true);
    if (!returns) expect(await button.evaluate((element) => element === document.activeElement)).toBe(true);
    await page.context().close();
  }
});

test("the palette opens and closes by keyboard and gives the focus back", async () => {
  const page = await the.open("builds", {}, ZOOMED);
  await page.locator("[aria-label='Filter builds']").focus();
  await page.keyboard.press("Control+k");
  await page.waitForSelector("#palette-list");
  expect([...(await axeFinds(page)), ...(await cutOff(page))]).toEqual([]);
  await page.keyboard.press("Escape");
  await page.waitForSelector("#palette-list", { state: "detached" });
  await page.waitForFunction(() => document.activeElement?.getAttribute("aria-label") === "Filter builds", undefined, { timeout: 3000 });
  await page.context().close();
});

test("the history is one stop: arrows choose, Enter opens, and Tab leads past it", async () => {
  const page = await the.open("builds", { history: 40 });
  await page.locator("[aria-label=History]").focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Tab");
  expect(await page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toMatch(/^Select /);
  const chosen = await page.evaluate(() => document.activeElement?.closest<HTMLElement>("[data-ref]")?.dataset.ref);
  for (let n = 0; n < 2; n++) await page.keyboard.press("Tab");
  expect(await page.evaluate(() => document.activeElement?.closest("footer")?.getAttribute("aria-label"))).toBe("Status");
  await page.locator("[aria-label=History]").focus();
  await page.keyboard.press("Enter");
  await page.waitForFunction((ref) => location.hash === `#/build/${ref}`, chosen);
  await page.context().close();
});

test("reduced motion stops what moves", async () => {
  const moving = async (motion: "reduce" | "no-preference"): Promise<number> => {
    const page = await the.open("builds", LIVE);
    await page.emulateMedia({ reducedMotion: motion });
    // The turning circle of a wait, which is over too soon to be caught.
    const turning = await page.evaluate(() => {
      const circle = document.createElement("i");
      circle.className = "animate-spin";
      document.body.append(circle);
      return document.getAnimations().length;
    });
    await page.context().close();
    return turning;
  };
  expect(await moving("no-preference")).toBeGreaterThan(0);
  expect(await moving("reduce")).toBe(0);
});
