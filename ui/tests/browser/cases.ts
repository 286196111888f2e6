// Every screen as it is looked at: with what it shows, without it, while it waits, when it fails, and with names that are
// too long; and pictures of them.
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Page } from "playwright-core";
import type { MockOptions } from "../../src/host/mock";
import type { Bed } from "./bed";
import { small } from "./picture";
import { recordings } from "./recordings";

/** `KILN_PICTURES=1` renews those of the documentation. */
const pictures = fileURLToPath(new URL("../../../docs/screenshots/", import.meta.url));
const ref = (name: string): string => recordings[name] ?? "";

export interface Screen { name: string; route: string; options?: MockOptions; click?: string | string[]; fill?: [string, string]; press?: string; ready: string }

export const SCREENS: Screen[] = [
  { name: "builds", route: "builds", options: { history: 9, live: { name: "webshop-first", share: 0.62 } }, ready: "text=Today" },
  { name: "builds-empty", route: "builds", options: { empty: true }, ready: "text=No builds yet" },
  { name: "build-error", route: `build/${ref("api-failed")}`, ready: "text=What the step printed last" },
  { name: "build-steps", route: `build/${ref("webshop-changed")}?tab=steps`, ready: "text=ran: src/checkout.js changed" },
  { name: "build-step", route: `build/${ref("webshop-first")}?tab=steps`, click: "button:has-text('for f in src/')", ready: "aside[aria-label=Step]" },
  { name: "build-logs", route: `build/${ref("webshop-first")}?tab=logs`, ready: "[aria-label=Logs] .ansi-green" },
  { name: "build-inputs", route: `build/${ref("webshop-first")}?tab=inputs`, ready: "text=Dependencies" },
  { name: "build-outputs", route: `build/${ref("webshop-changed")}?tab=outputs`, ready: "text=larger than the last build" },
  { name: "build-export", route: `build/${ref("webshop-first")}`, click: ["[aria-label='More actions']", "text=Export as .dockerbuild…"], ready: "text=Its record, log, provenance" },
  { name: "compare", route: `compare/${ref("webshop-changed")}?with=${ref("webshop-cached")}`, ready: "text=Inputs that differ" },
  { name: "new-build", route: "new?folder=/home/ada/src/webshop", ready: "text=One check is broken" },
  { name: "new-build-watching", route: "new?folder=/home/ada/src/webshop", click: ["label:has-text('Watch')", "button:has-text('Build and watch')"], ready: "text=Waiting for a change" },
  { name: "images", route: "images?image=registry.example.com/shop/webshop:2.3.1", ready: "text=4 layers" },
  { name: "images-base", route: "images?image=docker.io/library/debian:bookworm-slim", ready: "text=built on this image" },
  { name: "images-transfer", route: "images?image=registry.example.com/shop/api:dev", click: ["aside button:has-text('Push')", "article summary:has-text('Layers')"], ready: "text=there already" },
  { name: "images-pull", route: "images", click: "button:has-text('Pull image')", ready: "[role=dialog]" },
  { name: "images-remove", route: "images", click: ["[aria-label='Select registry.example.com/shop/api:dev']", "button:has-text('Remove…')"], ready: "text=Remove, and free" },
  { name: "cache", route: "cache", ready: "text=can go without" },
  { name: "cache-project", route: "cache?project=webshop", ready: "text=Cache mounts" },
  { name: "cache-stage", route: "cache?project=webshop&stage=build", click: "[aria-label=Records] button >> nth=0", ready: "text=0 records need it" },
  { name: "cache-plan", route: "cache?plan=1", ready: "text=would go" },
  { name: "cache-mounts", route: "cache?tab=mounts", click: "button:has-text('Files')", ready: "text=express" },
  { name: "cache-policies", route: "cache?tab=policies", ready: "text=may go" },
  { name: "machine", route: "machine", ready: "section[aria-label=Processor] [role=img]" },
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
];

/** What a screen shows of itself when there is nothing, not yet anything, or too much to show. */
const LONG: MockOptions = { long: true };
const DOWN: MockOptions["machine"] = { state: "failed", reason: "QEMU ended with status 1: no space left on device. Free some space on this computer, then start it again.", disk: null, since: 0, bootMilliseconds: 0 };
export const STATES: Screen[] = [
  { name: "builds-loading", route: "builds", options: { pending: true }, ready: "text=Asking the engine for its builds…" },
  { name: "builds-stopped", route: "builds", options: { empty: true, machine: { state: "stopped", disk: null } }, ready: "text=No builds to show" },
  { name: "builds-filtered", route: "builds?q=nothing-like-that", ready: "text=No build matches" },
  { name: "builds-long", route: "builds", options: { ...LONG, live: { name: "webshop-first", share: 0.62 } }, ready: "text=Today" },
  { name: "build-loading", route: `build/${ref("webshop-first")}`, options: { pending: true }, ready: "text=Reading the build’s record…" },
  { name: "build-long", route: `build/${ref("webshop-first")}?tab=inputs`, options: LONG, ready: "text=Dependencies" },
  { name: "build-error-long", route: `build/${ref("api-failed")}`, options: LONG, ready: "text=What the step printed last" },
  { name: "new-build-empty", route: "new", ready: "text=Recent" },
  { name: "new-build-long", route: "new?folder=/home/ada/src/webshop", options: LONG, ready: "text=One check is broken" },
  { name: "images-empty", route: "images", options: { empty: true }, ready: "text=No images yet" },
  { name: "images-loading", route: "images", options: { pending: true }, ready: "text=Listing images…" },
  { name: "images-failing", route: "images", options: { failing: true, machine: DOWN }, ready: "text=Try again" },
  { name: "images-long", route: "images?image=registry.example.com/shop/webshop:2.3.1", options: LONG, ready: "text=4 layers" },
  { name: "cache-empty", route: "cache", options: { empty: true }, ready: "text=The cache is empty" },
  { name: "cache-long", route: "cache", options: LONG, ready: "text=can go without" },
  { name: "cache-mounts-empty", route: "cache?tab=mounts", options: { empty: true }, ready: "text=No cache mounts" },
  { name: "machine-failed", route: "machine", options: { machine: DOWN }, ready: "text=QEMU ended with status 1" },
  { name: "machine-console", route: "machine?tab=console", ready: "text=kilnd: serving" },
  { name: "machine-long", route: "machine", options: LONG, ready: "text=Sockets" },
  { name: "builders-remote", route: "builders", fill: ["#builder-address", "tcp://builder.example.com:1234"], ready: "text=Certificates, as PEM files" },
  { name: "builders-long", route: "builders", options: LONG, ready: "text=Add a builder" },
  { name: "registries-empty", route: "registries", options: { empty: true }, ready: "text=No logins found" },
  { name: "registries-long", route: "registries", options: LONG, ready: "text=Log in" },
  { name: "doctor-long", route: "doctor", options: LONG, ready: "text=things to look at" },
  { name: "palette", route: "builds", press: "Control+k", ready: "#palette-list" },
];

/** The screen as it is looked at. */
export async function drawn(the: Bed, { route, options, click, fill, press, ready }: Screen, theme: "light" | "dark", size?: { width: number; height: number }): Promise<Page> {
  const page = await the.open(route, { ...options, theme }, size);
  for (const at of [click ?? []].flat()) await page.locator(at).first().click();
  if (fill) await page.fill(...fill);
  if (press) await page.keyboard.press(press);
  await page.waitForSelector(ready);
  await page.waitForFunction((wanted) => document.documentElement.dataset.theme === wanted, theme);
  await page.evaluate(() => document.fonts.ready);
  return page;
}

/** For who asks: taking it and finding its palette takes longer than the rest of a test. */
export async function picture(page: Page, name: string): Promise<void> {
  if (process.env.KILN_PICTURES) writeFileSync(`${pictures}${name}.png`, small(await page.screenshot()));
}
