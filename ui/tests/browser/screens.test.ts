// Every screen in both themes: drawn, free of axe's findings, and kept as a picture to look at.
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { MockOptions } from "../../src/host/mock";
import { recordings } from "./recordings";
import { bed, type Bed } from "./bed";
import { axeFinds, byKeyboard, cutOff, ZOOMED } from "./reach";

// `KILN_PICTURES=1` renews those of the documentation.
const kept = new URL(process.env.KILN_PICTURES ? "../../../docs/screenshots/" : "../../node_modules/.cache/screenshots/", import.meta.url);
const pictures = fileURLToPath(kept);
const ref = (name: string): string => recordings[name] ?? "";

interface Screen { name: string; route: string; options?: MockOptions; click?: string | string[]; ready: string }

const SCREENS: Screen[] = [
  { name: "builds", route: "builds", options: { history: 9, live: { name: "webshop-first", share: 0.62 } }, ready: "text=Today" },
  { name: "builds-empty", route: "builds", options: { empty: true }, ready: "text=No builds yet" },
  { name: "build-error", route: `build/${ref("api-failed")}`, ready: "text=What the step printed last" },
  { name: "build-steps", route: `build/${ref("webshop-changed")}?tab=steps`, ready: "text=ran: src/checkout.js changed" },
  { name: "build-step", route: `build/${ref("webshop-first")}?tab=steps`, click: "button:has-text('for f in src/')", ready: "aside[aria-label=Step]" },
  { name: "build-logs", route: `build/${ref("webshop-first")}?tab=logs`, ready: "[aria-label=Logs] .ansi-green" },
  { name: "build-inputs", route: `build/${ref("webshop-first")}?tab=inputs`, ready: "text=Dependencies" },
  { name: "build-outputs", route: `build/${ref("webshop-first")}?tab=outputs`, ready: "text=Results" },
  { name: "build-export", route: `build/${ref("webshop-first")}`, click: ["[aria-label='More actions']", "text=Export as .dockerbuild…"], ready: "text=Its record, log, provenance" },
  { name: "compare", route: `compare/${ref("webshop-changed")}?with=${ref("webshop-cached")}`, ready: "text=Inputs that differ" },
  { name: "new-build", route: "new?folder=/home/ada/src/webshop", ready: "text=One check is broken" },
  { name: "new-build-watching", route: "new?folder=/home/ada/src/webshop", click: ["label:has-text('Watch')", "button:has-text('Build and watch')"], ready: "text=Waiting for a change" },
  { name: "images", route: "images?image=registry.example.com/shop/webshop:2.3.1", ready: "text=4 layers" },
  { name: "images-pull", route: "images", click: "button:has-text('Pull image')", ready: "[role=dialog]" },
  { name: "images-remove", route: "images", click: ["[aria-label='Select registry.example.com/shop/api:dev']", "button:has-text('Remove…')"], ready: "text=Remove, and free" },
  { name: "cache", route: "cache", ready: "text=can go without" },
  { name: "cache-project", route: "cache?project=webshop", ready: "text=Cache mounts" },
  { name: "cache-stage", route: "cache?project=webshop&stage=build", click: "[aria-label=Records] button >> nth=0", ready: "text=can go ·" },
  { name: "cache-plan", route: "cache?plan=1", ready: "text=would go" },
  { name: "cache-mounts", route: "cache?tab=mounts", click: "button:has-text('Files')", ready: "text=express" },
  { name: "cache-policies", route: "cache?tab=policies", ready: "text=may go" },
  { name: "machine", route: "machine", ready: "text=Sockets" },
  { name: "machine-resources", route: "machine?tab=resources", ready: "text=Stop when idle" },
  { name: "machine-stopped", route: "machine", options: { machine: { state: "stopped", disk: null, bootMilliseconds: 0 } }, ready: "text=Stopped" },
  { name: "builders", route: "builders", click: "button:has-text('Test')", ready: "text=Workers" },
  { name: "registries", route: "registries", click: "li button:has-text('Test')", ready: "text=trusted" },
  { name: "registry-settings", route: "registries", click: "[aria-label='Settings of docker.io']", ready: "text=Mirrors" },
  { name: "machine-reset", route: "machine", click: "button:has-text('Reset…')", ready: "[role=dialog]" },
  { name: "doctor", route: "doctor", ready: "text=things to look at" },
  { name: "doctor-support", route: "doctor", click: "button:has-text('Support bundle…')", ready: "text=logs/kiln-vmd.log" },
  { name: "cache-policies-edited", route: "cache?tab=policies", click: ["button:has-text('Edit')", "button:has-text('Show what would go')"], ready: "text=would go now" },
  { name: "builder-refused", route: "builders", click: "button[aria-label='Test ci-builder']", ready: "text=doesn’t take this certificate" },
  { name: "settings", route: "settings", ready: "text=Privacy" },
  { name: "failing", route: "images", options: { failing: true }, ready: "text=Try again" },
];

let the: Bed;
beforeAll(async () => {
  mkdirSync(pictures, { recursive: true });
  the = await bed();
});
afterAll(() => the.close());

describe.each(["light", "dark"] as const)("%s", (theme) => {
  test.each(SCREENS)("$name", async ({ name, route, options, click, ready }) => {
    const page = await the.open(route, { ...options, theme });
    for (const at of [click ?? []].flat()) await page.locator(at).first().click();
    await page.waitForSelector(ready);
    await page.waitForFunction((wanted) => document.documentElement.dataset.theme === wanted, theme);
    await page.evaluate(() => document.fonts.ready);
    await page.screenshot({ path: `${pictures}${name}-${theme}.png` });
    const found = await axeFinds(page);
    expect(found, found.join("\n")).toEqual([]);
    await page.context().close();
  });
});

test.each(["builds", "cache", "images", "machine", "new?folder=/x", `build/${ref("webshop-first")}`])("%s fits a small window and twice the zoom", async (route) => {
  for (const size of [{ width: 800, height: 600 }, { width: 640, height: 400 }]) {
    const page = await the.open(route, { history: 3 }, size);
    await page.waitForSelector("h1");
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    expect(overflow).toBeLessThanOrEqual(0);
    if (size.width === 800) await page.screenshot({ path: `${pictures}small-${route.split(/[/?]/)[0]}.png` });
    await page.context().close();
  }
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
