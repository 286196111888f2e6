// Long lists cost what fits on the screen, and what is drawn keeps up. Times depend on the machine and aren't asserted:
// `KILN_FEEL=file` writes them down.
import { appendFileSync } from "node:fs";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bed, type Bed } from "./bed";
import { recordings } from "./recordings";

let the: Bed;
beforeAll(async () => {
  the = await bed();
});
afterAll(() => the.close());

interface Frames { frames: number; longest: number; over50: number; most: number }

/** Frames while something goes on, and the most elements that a list had meanwhile. */
async function watch(page: Page, list: string, during: () => Promise<unknown>): Promise<Frames> {
  await page.evaluate((selector) => {
    const seen = { frames: 0, longest: 0, over50: 0, most: 0, last: performance.now(), on: true };
    Object.assign(globalThis, { seen });
    const frame = (now: number): void => {
      const took = now - seen.last;
      seen.last = now;
      seen.frames++;
      seen.longest = Math.max(seen.longest, took);
      if (took > 50) seen.over50++;
      seen.most = Math.max(seen.most, document.querySelectorAll(`${selector} *`).length);
      if (seen.on) requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }, list);
  await during();
  return page.evaluate(() => {
    const { seen } = globalThis as unknown as { seen: Frames & { on: boolean } };
    seen.on = false;
    return { frames: seen.frames, longest: Math.round(seen.longest), over50: seen.over50, most: seen.most };
  });
}

function note(what: string, frames: Frames): void {
  if (process.env.KILN_FEEL) appendFileSync(process.env.KILN_FEEL, `${JSON.stringify({ what, ...frames })}\n`);
}

test("100,000 lines of a log, 10,000 a second: a screenful of elements", async () => {
  const live = `live${(recordings["webshop-first"] ?? "").slice(4)}`;
  const page = await the.open(`build/${live}?tab=logs`, { live: { name: "webshop-first", share: 0.62 }, flood: { perSecond: 10_000, seconds: 10 } });
  const frames = await watch(page, "[aria-label=Logs]", () => page.waitForFunction(() => document.body.innerText.includes("[100000]"), undefined, { polling: 500 }));
  note("logs", frames);
  expect(frames.most).toBeLessThan(1000);
  await page.context().close();
});

test("5,000 builds: a screenful of elements, from the first to the last", async () => {
  const kinds = Object.keys(recordings).length;
  const page = await the.open("builds", { history: Math.ceil(5000 / kinds) });
  await page.waitForSelector("[aria-label=History]");
  const frames = await watch(page, "[aria-label=History]", () =>
    page.evaluate(async () => {
      const list = document.querySelector("[aria-label=History]");
      if (!list) throw new Error("no list");
      // As a wheel does, then by hand from end to end.
      for (const [step, times] of [[100, 200], [list.scrollHeight / 50, 50]] as const) {
        for (let n = 0; n < times; n++) {
          list.scrollTop += step;
          await new Promise(requestAnimationFrame);
        }
      }
      list.scrollTop = list.scrollHeight;
    }),
  );
  note("history", frames);
  expect(frames.most).toBeLessThan(3000);
  await page.context().close();
});
