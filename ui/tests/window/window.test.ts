// What people do first, in the real window, on a real machine with the native driver. Each test goes on where the one
// before it ended.
import { copyFileSync, existsSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Window } from "./bed";

const app = new Window();
const BASE = "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/sleep\n";

beforeAll(async () => {
  app.write("src/shop/Dockerfile", `${BASE}RUN echo baked\n`);
  copyFileSync("/bin/busybox", app.at("src/shop/busybox"));
  await app.open();
});
afterAll(() => app.close());

test("the first run offers to start the machine, and starts it", async () => {
  await app.press("Start the machine");
  await app.see("No builds yet");
});

test("a build by stock buildx lands in history, with its log", async () => {
  expect(app.buildx("create", "--name", "kiln", "--driver", "remote", `unix://${app.at("r/buildkitd.sock")}`)).toMatchObject({ status: 0 });
  const built = app.buildx("build", app.at("src/shop"));
  expect(built.status, built.stderr).toBe(0);
  await app.see("1 build");
  await app.click("//a[.//span[text()='shop']]");
  await app.see("Built in");
  await app.click("//button[@role='tab'][contains(., 'Logs')]");
  await app.see("baked");
  await app.picture("window-logs");
});

test("a failing build opens on its line", async () => {
  app.write("src/shop/Dockerfile", `${BASE}RUN echo almost && exit 3\n`);
  expect(app.buildx("build", app.at("src/shop")).status).not.toBe(0);
  await app.go("Builds");
  await app.see("2 builds");
  await app.click("(//a[.//span[text()='shop']])[1]");
  await app.see("exit 3");
  await app.see("line 4");
  await app.see("almost");
  await app.picture("window-error");
});

test("a build by stock buildx is seen at work, in the tray too, and cancelled", async () => {
  app.write("src/slow/Dockerfile", `${BASE}RUN sleep 600\n`);
  copyFileSync("/bin/busybox", app.at("src/slow/busybox"));
  const build = app.startBuildx("build", app.at("src/slow"));
  await app.go("Builds");
  await app.see("RUN sleep 600");
  await app.until("the tray's line", async () => (await app.desktop<string[] | null>({ do: "menu" }))?.some((line) => /^slow – \d+ %$/.test(line)));
  await app.picture("window-running");
  await app.press("Cancel");
  expect(await build).not.toBe(0);
  await app.see("3 builds");
  await app.see("Cancelled");
});

test("a folder is built from the form, into an image", async () => {
  app.write("src/shop/Dockerfile", `${BASE}ARG GREETING=hello\nRUN echo "$GREETING"\n`);
  await app.click("//a[normalize-space()='New build']");
  await app.type("folder", app.at("src/shop"));
  await app.press("Read");
  await app.type("arg-GREETING", "salut");
  await app.click("//label[contains(., 'Keep in Kiln')]");
  await app.type("tags", "shop:dev");
  await app.press("Keep in the tray");
  await app.see("The tray offers “Build shop”.");
  await app.picture("window-new");
  await app.click("//button[normalize-space()='Build']");
  await app.see("Built shop:dev in");
  await app.click("//button[@role='tab'][contains(., 'Logs')]");
  await app.see("salut");
});

test("the image has another name, and is removed with what it frees", async () => {
  await app.go("Images");
  await app.click("//button[normalize-space()='shop:dev']");
  await app.type("input[aria-label='New name']", "shop:best");
  await app.press("Add name");
  await app.see("also shop:dev");
  await app.picture("window-image");
  await app.click("//aside//button[normalize-space()='Remove…']");
  await app.press("Remove, and free");
  await app.see("No images yet");
});

test("the cache is pruned after a look at what goes", async () => {
  await app.go("Cache");
  await app.see("All projects");
  await app.press("Free up space…");
  await app.type("keep", "0");
  await app.until("the plan", async () => /\d+ records? would go/.test(await app.text()));
  await app.picture("window-plan");
  await app.click("//div[@role='dialog']//button[starts-with(normalize-space(), 'Free up')]");
  await app.see("Freed");
  await app.press("Close");
});

test("a setting is kept, and an edit of the file is taken up", async () => {
  const theme = (wanted: string): Promise<unknown> => app.until(`the theme ${wanted}`, async () => (await app.script("return document.documentElement.dataset.theme")) === wanted);
  const file = (): string => (existsSync(app.at("c/desktop.json")) ? readFileSync(app.at("c/desktop.json"), "utf8") : "");
  await app.go("Settings");
  await app.press("Dark");
  await app.until("the file", () => Promise.resolve(file().includes('"theme": "dark"')));
  await theme("dark");
  await app.picture("window-settings");
  app.write("c/desktop.json", file().replace('"dark"', '"light"'));
  await theme("light");
  await app.click("//label[contains(., 'Start in the tray when you log in')]");
  await app.until("the entry for the next login", () => Promise.resolve(existsSync(app.at(".config/autostart/dev.kiln.desktop.desktop"))));
});

test("the tray builds what it was given, and the desktop is told of a failure that leads to the build", async () => {
  app.write("src/shop/Dockerfile", `${BASE}RUN exit 4\n`);
  await app.desktop({ do: "leave" });
  await app.tray("Build shop");
  type Note = [number, string, string];
  const note = await app.until("the notification", async () => (await app.desktop<Note[]>({ do: "notices" })).find(([, title, body]) => title === "shop failed" && body.includes("exit code: 4")));
  await app.desktop({ do: "act", id: note[0] });
  await app.see("line 4");
});

test("a second start hands its link to the window that is there", async () => {
  expect(await app.desktop({ do: "run", command: [app.program, "kiln://machine"] })).toBe(0);
  await app.see("Sockets");
});

test("the machine’s gauges move", async () => {
  const label = (part: string): Promise<string> => app.script(`return document.querySelector("section[aria-label=${part}] [role=img]")?.getAttribute("aria-label") ?? ""`) as Promise<string>;
  const processor = await app.until("the processor’s gauge", () => label("Processor"));
  expect(processor).toMatch(/^[\d.]+ of \d+ CPUs? at work$/);
  expect(await label("Memory")).toMatch(/^[\d.]+ of [\d.]+ GB used$/);
  expect(await label("Disk")).toMatch(/ used, of which .* can go$/);
  app.write("src/busy/Dockerfile", `${BASE}RUN i=0; while [ $i -lt 3000000 ]; do i=$((i+1)); done\n`);
  copyFileSync("/bin/busybox", app.at("src/busy/busybox"));
  const build = app.startBuildx("build", app.at("src/busy"));
  await app.until("a processor at work", async () => parseFloat(await label("Processor")) >= 0.4);
  await app.picture("window-machine");
  expect(await build).toBe(0);
});

test("the tray stops the machine", async () => {
  await app.tray("Stop the machine");
  await app.see("It starts by itself when a tool connects");
  await app.until("the tray to say so", async () => (await app.desktop<string[]>({ do: "menu" })).includes("The machine is stopped"));
});
