// Every screen in a small window, and at twice the size with the keyboard alone: nothing is cut off, all can be reached.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bed, type Bed } from "./bed";
import { drawn, picture, SCREENS, STATES } from "./cases";
import { byKeyboard, cutOff, overlaps, ZOOMED } from "./reach";

let the: Bed;
beforeAll(async () => {
  the = await bed();
});
afterAll(() => the.close());

/** A theme changes no layout: one is looked at. */
const SMALL = /^(builds|builds-long|build-error|build-steps|build-step|build-logs|compare|new-build|images|images-long|cache|cache-stage|cache-plan|cache-mounts|cache-policies-edited|machine|machine-resources|builders|builders-long|registries|registry-settings|registries-long|doctor|settings)$/;
describe("800 × 600", () => {
  test.each([...SCREENS, ...STATES])("$name", async (screen) => {
    const page = await drawn(the, screen, "light", { width: 800, height: 600 });
    if (SMALL.test(screen.name)) await picture(page, `small-${screen.name}`);
    const found = [...(await cutOff(page)), ...(await overlaps(page))];
    expect(found, found.join("\n")).toEqual([]);
    await page.context().close();
  });
});

describe("without a mouse, at twice the size", () => {
  test.each(SCREENS)("$name", async ({ route, options, click, ready }) => {
    const page = await the.open(route, options, ZOOMED);
    for (const at of [click ?? []].flat()) {
      const opener = page.locator(at).first();
      await opener.focus();
      await page.keyboard.press((await opener.evaluate((element) => element.matches("label, input[type=checkbox]"))) ? "Space" : "Enter");
    }
    await page.waitForSelector(ready);
    const found = [...(await cutOff(page)), ...(await byKeyboard(page))];
    expect(found, found.join("\n")).toEqual([]);
    await page.context().close();
  });
});
