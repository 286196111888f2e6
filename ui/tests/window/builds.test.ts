// What is known about builds after them: why steps ran, what differs, what stays. Each test goes on where the one before
// it ended.
import { copyFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Window } from "./bed";

const app = new Window();
const action = async (words: string): Promise<void> => {
  await app.click("//button[@aria-label='More actions']");
  await app.click(`//*[@role='menuitem'][contains(., '${words}')]`);
};

beforeAll(async () => {
  app.write("src/shop/Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\nRUN echo first\nCOPY note /note\nARG GREETING=hello\nRUN echo $GREETING > /done\n");
  app.write("src/shop/note", "one\n");
  copyFileSync("/bin/busybox", app.at("src/shop/busybox"));
  await app.open();
  await app.press("Start the machine");
  await app.see("No builds yet");
  expect(app.buildx("create", "--name", "kiln", "--driver", "remote", `unix://${app.at("r/buildkitd.sock")}`)).toMatchObject({ status: 0 });
});
afterAll(() => app.close());

test("a step that ran again says why, in words", async () => {
  expect(app.buildx("build", app.at("src/shop")).status).toBe(0);
  app.write("src/shop/note", "two\n");
  expect(app.buildx("build", "--build-arg", "GREETING=salut", app.at("src/shop")).status).toBe(0);
  await app.see("2 builds");
  await app.until("both say who asked", async () => (await app.script("return document.querySelectorAll(\"[title='Asked for by buildx']\").length")) === 2);
  await app.click("(//a[.//span[text()='shop']])[1]");
  await app.see("Built in");
  await app.see("ran: note changed");
  await app.picture("window-why");
});

test("two builds are compared: inputs and steps", async () => {
  await action("Compare with the build before");
  await app.see("Inputs that differ");
  await app.see("salut");
  await app.see("RUN echo first");
  await app.picture("window-compare");
});

test("a pinned build stays, another one is deleted, from the engine as well", async () => {
  await app.go("Builds");
  await app.click("(//a[.//span[text()='shop']])[1]");
  await action("Pin");
  await app.go("Builds");
  await app.click("(//a[.//span[text()='shop']])[2]");
  await action("Delete");
  await app.see("Build deleted");
  await app.until("the engine’s list without it", () => app.buildx("history", "ls", "--format", "{{.Ref}}").stdout.trim().split("\n").length === 1);
  await app.see("1 build");
});
