// Every word on a screen comes from the catalogue, but for data. The app is built with a language whose letters are
// full-width ones: what is still in plain letters was never looked up, or is what an engine, a person or a unit says.
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Page } from "playwright-core";
import PO from "pofile";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { MockOptions } from "../../src/host/mock";
import { bed, type Bed } from "./bed";
import { recordings } from "./recordings";

const ui = fileURLToPath(new URL("../../", import.meta.url));
const FOLDER = "node_modules/.cache/locales";

/** Full-width letters; what stands for a value or an element stays. */
const wide = (text: string): string => text.replace(/\{\d+\}|<\/?\d+\/?>|[A-Za-z]/g, (at) => (at.length > 1 ? at : String.fromCharCode(at.charCodeAt(0) + 0xfee0)));

let the: Bed;
beforeAll(async () => {
  rmSync(ui + FOLDER, { recursive: true, force: true });
  cpSync(`${ui}src/locales`, ui + FOLDER, { recursive: true });
  for (const part of ["screens", "code"]) {
    const catalogue = PO.parse(readFileSync(`${ui}${FOLDER}/${part}/en.po`, "utf8"));
    catalogue.headers["Language"] = "en-XA";
    for (const item of catalogue.items) item.msgstr = item.msgid_plural ? [wide(item.msgid), wide(item.msgid_plural)] : [wide(item.msgid)];
    writeFileSync(`${ui}${FOLDER}/${part}/en-XA.po`, catalogue.toString());
  }
  process.env.KILN_LOCALES_DIR = FOLDER;
  the = await bed("en-XA");
});
afterAll(() => the.close());

/** Values of the recorded builds and the samples, as they are, decoded and without flags; names of states are none. */
const data = ((): string => {
  const found: string[] = ["<none>", readFileSync(`${ui}src/host/mock.ts`, "utf8"), readFileSync(`${ui}src/host/recorded.ts`, "utf8")];
  const take = (value: unknown, key = ""): void => {
    if (typeof value === "string" && !(/^(status|state|kind|level|Status|result|theme)$/.test(key))) found.push(value, value.replace(/\s--\w+=\S+/g, ""), /^[\w+/]{8,}=*$/.test(value) ? Buffer.from(value, "base64").toString() : "");
    else if (value && typeof value === "object") for (const [k, v] of Object.entries(value)) found.push(k), take(v, Array.isArray(value) ? key : k);
  };
  for (const file of readdirSync(`${ui}testdata`, { recursive: true, encoding: "utf8" })) if (file.endsWith(".json")) take(JSON.parse(readFileSync(`${ui}testdata/${file}`, "utf8")));
  return found.join("\n").replace(/\s+/g, " ");
})();
/** What Intl writes in the language that the pseudo-language is one of, and the names of protocols. */
const UNITS = /^(ms|s|m|h|kB|MB|GB|TB|and|Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec|HTTPS?)$/;

async function plain(page: Page): Promise<string[]> {
  const texts = await page.evaluate(() => {
    const found: string[] = [];
    const scope = document.querySelector("[role=dialog]") ?? document.body;
    for (const element of scope.querySelectorAll<HTMLElement>("*")) {
      if (element.closest("pre, code, kbd, script, style, svg, .mono, [aria-label=Logs]") || !element.checkVisibility({ visibilityProperty: true })) continue;
      for (const node of element.childNodes) if (node.nodeType === Node.TEXT_NODE && node.textContent?.trim()) found.push(node.textContent);
      for (const name of ["aria-label", "title", "placeholder"]) if (element.getAttribute(name)) found.push(element.getAttribute(name) ?? "");
    }
    return [...new Set(found)];
  });
  return texts.flatMap((text) => {
    const left = text.split(/[\uff21-\uff5a]+/u).flatMap((part) => part.split(/ · | – |, |[“”()]|: |; /)).map((part) => part.replace(/\s+/g, " ").trim().replace(/^[^\w/.#$<-]+|[^\w/)>]+$/g, ""));
    const odd = left.filter((part) => /[A-Za-z]/.test(part) && !data.includes(part) && !part.split(/[\s\d.,:×%–-]+/).every((word) => !/[A-Za-z]/.test(word) || UNITS.test(word)));
    return odd.length ? [`${text.trim().slice(0, 120)}   ← ${odd.join(" | ").slice(0, 80)}`] : [];
  });
}

const ref = (name: string): string => recordings[name] ?? "";
const SCREENS: { route: string; options?: MockOptions }[] = [
  { route: "builds", options: { history: 9, live: { name: "webshop-first", share: 0.62 } } }, { route: "builds", options: { empty: true } },
  ...["error", "steps", "logs", "inputs", "outputs", "warnings"].map((tab) => ({ route: `build/${ref("api-failed")}?tab=${tab}` })),
  ...["steps", "logs", "inputs", "outputs"].map((tab) => ({ route: `build/${ref("webshop-first")}?tab=${tab}` })),
  { route: `compare/${ref("webshop-changed")}?with=${ref("webshop-cached")}` }, { route: "new" }, { route: "new?folder=/home/ada/src/webshop" },
  { route: "images" }, { route: "images", options: { empty: true } }, { route: "images?image=registry.example.com/shop/webshop:2.3.1" }, { route: "images", options: { failing: true } },
  { route: "cache" }, { route: "cache", options: { empty: true } }, { route: "cache?plan=1" }, { route: "cache?tab=mounts" }, { route: "cache?tab=policies" },
  { route: "machine" }, { route: "machine?tab=resources" }, { route: "machine", options: { machine: { state: "stopped", disk: null, bootMilliseconds: 0 } } },
  { route: "builders" }, { route: "registries" }, { route: "registries", options: { empty: true } }, { route: "doctor" }, { route: "settings" },
];

test.each(SCREENS)("$route $options", { timeout: 30_000 }, async ({ route, options }) => {
  const page = await the.open(route, options);
  const settled = (): Promise<unknown> => page.waitForFunction(() => !document.querySelector("[role=status] .animate-spin"));
  await settled();
  expect(await page.evaluate(() => /[\uff21-\uff5a]/u.test(document.body.innerText))).toBe(true);
  const found = new Set(await plain(page));
  // Each button that asks first, and the dialog behind it.
  const asking = page.locator("button:enabled:visible", { hasText: /…$/ });
  for (let n = 0; n < (await asking.count()) && !(await page.locator("[role=dialog]").count()); n++) {
    await asking.nth(n).click();
    await settled();
    for (const text of await plain(page)) found.add(text);
    if (await page.locator("[role=dialog]").count()) {
      await page.keyboard.press("Escape");
      await page.waitForSelector("[role=dialog]", { state: "detached" });
    }
  }
  expect([...found], [...found].join("\n")).toEqual([]);
  await page.context().close();
});
