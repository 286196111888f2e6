// What happens around the window: it is closed, the process behind it dies, the app ends. Each test goes on where the
// one before it ended.
import { copyFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Window } from "./bed";

const app = new Window();
const BASE = "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/sleep\n";
const shown = async (): Promise<boolean> => (await app.desktop<string[]>({ do: "windows" })).includes("Kiln");

beforeAll(async () => {
  for (const [name, step] of [["shop", "echo baked"], ["slow", "sleep 600"]]) {
    app.write(`src/${name}/Dockerfile`, `${BASE}RUN ${step}\n`);
    copyFileSync("/bin/busybox", app.at(`src/${name}/busybox`));
  }
  await app.open();
  await app.press("Start the machine");
  await app.see("No builds yet");
  expect(app.buildx("create", "--name", "kiln", "--driver", "remote", `unix://${app.at("r/buildkitd.sock")}`)).toMatchObject({ status: 0 });
});
afterAll(() => app.close());

test("a closed window leaves the tray, which opens it again", async () => {
  await app.until("the window", shown);
  expect(await app.desktop({ do: "close", title: "Kiln" })).toBe(true);
  await app.until("the window to go", async () => !(await shown()));
  expect(app.processes("kiln-desktop")).toHaveLength(1);
  await app.tray("Open Kiln");
  await app.until("the window", shown);
  await app.see("No builds yet");
});

test("builds and history survive the end of kiln-vmd under the app", async () => {
  expect(app.buildx("build", app.at("src/shop")).status).toBe(0);
  await app.see("1 build");
  const [before] = app.processes("kiln-vmd");
  process.kill(before ?? 0, "SIGKILL");
  await app.until("another kiln-vmd", () => app.processes("kiln-vmd").some((pid) => pid !== before));
  await app.tray("Start the machine");
  await app.until("the tray to say so", async () => (await app.desktop<string[]>({ do: "menu" })).includes("Kiln is running"));
  expect(app.buildx("build", app.at("src/shop")).status).toBe(0);
  await app.go("Builds");
  await app.see("2 builds");
});

test("a build is cancelled from the tray", async () => {
  const build = app.startBuildx("build", app.at("src/slow"));
  await app.see("RUN sleep 600");
  await app.tray("Cancel slow");
  expect(await build).not.toBe(0);
  await app.see("Cancelled");
  await app.until("the tray's line", async () => (await app.desktop<string[]>({ do: "menu" })).includes("slow – cancelled"));
});

test("the app quits, and a build goes on", async () => {
  const build = app.startBuildx("build", app.at("src/slow"));
  await app.see("RUN sleep 600");
  await app.tray("Quit; builds go on");
  await app.until("the app's end", () => app.processes("kiln-desktop").length === 0);
  expect(app.processes("kiln-vmd")).not.toEqual([]);
  expect(await Promise.race([build, new Promise((done) => setTimeout(() => done("at work"), 0))])).toBe("at work");
});
