// Images to a registry and back, with a login that a real Secret Service keeps. Each test goes on where the one before
// it ended.
import { copyFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Window } from "./bed";
import { Registry } from "./registry";

const app = new Window();
let registry: Registry;
/** What the Secret Service has for the registry, as another program sees it. */
const kept = (): Promise<string> => app.desktop({ do: "output", command: ["secret-tool", "search", "--all", "registry", registry.host] });

beforeAll(async () => {
  app.write("src/shop/Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\nRUN echo baked > /bread\n");
  copyFileSync("/bin/busybox", app.at("src/shop/busybox"));
  registry = await Registry.start(app);
  await app.open();
  expect(await app.desktop({ do: "keyring" })).toBe(true);
  await app.press("Start the machine");
  await app.see("No builds yet");
});
afterAll(async () => {
  await app.close();
  registry.stop();
});

test("a wrong password is refused by name, and isn't kept", async () => {
  await app.go("Registries");
  await app.type("login-host", registry.host);
  await app.type("login-username", "ada");
  await app.type("login-secret", "wrong");
  await app.click("//button[normalize-space()='Log in']");
  await app.see(`${registry.host}: `);
  expect(await kept()).toBe("");
});

test("a login is kept by the Secret Service", async () => {
  await app.type("login-secret", "right");
  await app.click("//button[normalize-space()='Log in']");
  await app.see(`Logged in to ${registry.host}`);
  await app.see("login in the system’s keyring");
  expect(await kept()).toContain("secret = right");
  await app.click(`//li[contains(., '${registry.host}')]//button[normalize-space()='Test']`);
  await app.see("it takes the login of ada");
  await app.picture("window-registries");
});

test("an image that the form built is pushed with the login", async () => {
  await app.go("Builds");
  await app.click("//a[normalize-space()='New build']");
  await app.type("folder", app.at("src/shop"));
  await app.press("Read");
  await app.click("//label[contains(., 'Keep in Kiln')]");
  await app.type("tags", `${registry.host}/shop:1`);
  await app.click("//button[normalize-space()='Build']");
  await app.see("Built shop:1 in");
  await app.go("Images");
  await app.click(`//button[normalize-space()='${registry.host}/shop:1']`);
  await app.click("//aside//button[normalize-space()='Push']");
  await app.see(`Pushed ${registry.host}/shop:1`);
  expect(await registry.tags("shop")).toEqual(["1"]);
});

test("it names the build that made it, and what is built on it", async () => {
  app.write("src/upon/Dockerfile", `FROM ${registry.host}/shop:1\nRUN echo more > /more\n`);
  await app.go("Builds");
  await app.click("//a[normalize-space()='New build']");
  await app.type("folder", app.at("src/upon"));
  await app.press("Read");
  await app.click("//label[contains(., 'Keep in Kiln')]");
  await app.type("tags", "upon:1");
  await app.click("//button[normalize-space()='Build']");
  await app.see("Built upon:1 in");
  await app.go("Images");
  await app.click(`//button[normalize-space()='${registry.host}/shop:1']`);
  await app.see("built on this image, 1 layer more");
  await app.picture("window-image-uses");
  await app.click("//section[@aria-label='What uses it']//a[normalize-space()='upon']");
  await app.see("Built upon:1 in");
  await app.go("Images");
  await app.click("//button[normalize-space()='upon:1']");
  await app.see("this image is built on it");
  await app.click("//section[@aria-label='Where it comes from']//a[normalize-space()='upon']");
  await app.see("Built upon:1 in");
  await app.go("Images");
  await app.click("//button[normalize-space()='upon:1']");
  await app.click("//aside//button[normalize-space()='Remove…']");
  await app.press("Remove, and free");
  await app.see("1 image removed");
  await app.click(`//button[normalize-space()='${registry.host}/shop:1']`);
  await app.click("//section[@aria-label='Where it comes from']//a[normalize-space()='shop']");
  await app.see("Built shop:1 in");
  await app.go("Images");
  await app.click(`//button[normalize-space()='${registry.host}/shop:1']`);
});

test("it has another name, loses both, and comes back by a pull", async () => {
  await app.type("input[aria-label='New name']", `${registry.host}/shop:2`);
  await app.press("Add name");
  await app.see(`also ${registry.host}/shop:2`);
  await app.click("//aside//button[normalize-space()='Remove…']");
  await app.press("Remove, and free");
  await app.see("No images yet");
  await app.click("//button[normalize-space()='Pull image']");
  await app.type("pull-name", `${registry.host}/shop:1`);
  await app.click("//div[@role='dialog']//button[normalize-space()='Pull']");
  await app.see(`Pulled ${registry.host}/shop:1`);
  await app.click(`//button[normalize-space()='${registry.host}/shop:1']`);
  await app.see("echo baked > /bread");
});

test("after logging out nothing is kept", async () => {
  await app.go("Registries");
  await app.press("Log out");
  await app.see(`Logged out of ${registry.host}`);
  await app.see("No logins found");
  expect(await kept()).toBe("");
});
