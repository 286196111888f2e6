// Every screen in both themes: drawn, free of axe's findings, nothing over another, and a picture to look at. A theme
// changes colours alone: in the second one they are looked at.
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bed, type Bed } from "./bed";
import { drawn, picture, SCREENS, STATES } from "./cases";
import { small } from "./picture";
import { axeFinds, overlaps } from "./reach";

let the: Bed;
beforeAll(async () => {
  the = await bed();
});
afterAll(() => the.close());

describe.each(["light", "dark"] as const)("%s", (theme) => {
  test.each([...SCREENS, ...STATES])("$name", async (screen) => {
    const page = await drawn(the, screen, theme);
    await picture(page, `${screen.name}-${theme}`);
    const found = theme === "light" ? [...(await axeFinds(page)), ...(await overlaps(page))] : await axeFinds(page, ["color-contrast"]);
    expect(found, found.join("\n")).toEqual([]);
    await page.context().close();
  });
});

test("what a palette leaves of a picture is its surfaces, and all of its size", async () => {
  const page = await drawn(the, { name: "", route: "cache?project=webshop", ready: "text=Cache mounts" }, "dark");
  const taken = await page.screenshot();
  const kept = small(taken);
  expect(kept.length).toBeLessThan(taken.length / 2);
  const far = await page.evaluate(async (pictures) => {
    const [one, other] = await Promise.all(pictures.map(async (url) => {
      const image = await createImageBitmap(await (await fetch(url)).blob());
      const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
      canvas?.drawImage(image, 0, 0);
      return canvas?.getImageData(0, 0, image.width, image.height).data ?? new Uint8ClampedArray();
    }));
    if (!one || one.length !== other?.length) throw new Error("another size");
    return one.reduce((count, value, i) => count + (Math.abs(value - (other[i] ?? 0)) > 12 ? 1 : 0), 0) / one.length;
  }, [taken, kept].map((png) => `data:image/png;base64,${png.toString("base64")}`));
  expect(far).toBeLessThan(0.003);
  await page.context().close();
});
