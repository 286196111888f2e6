// What goes into builds and comes out as files: dialogs of the desktop (its portal is the bed's), a folder that is
// watched, builds once more, secrets of the keyring, records, archives, bundles, and how long builds are remembered.
// Each test goes on where the one before it ended.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Window } from "./bed";

const app = new Window({ more: { GTK_USE_PORTAL: "1" } });
const BASE = "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/wc\n";
const SECRET = "a-value-that-must-be-nowhere-31";
const button = (words: string): Promise<void> => app.click(`//button[normalize-space()='${words}']`);
/** Chooses in the dialog that a button of that title opens; the field gets what was chosen. */
async function choose(title: string, path: string, field: string, wanted = path): Promise<void> {
  await app.desktop({ do: "choose", path });
  await app.click(`//button[@title='${title}']`);
  await app.until(`${wanted} in ${field}`, async () => (await app.script("return document.getElementById(arguments[0])?.value", field)) === wanted);
  expect((await app.desktop<[string, string][]>({ do: "asked" })).at(-1)?.[1]).toBe(title);
}
const action = async (words: string): Promise<void> => {
  await app.click("//button[@aria-label='More actions']");
  await app.click(`//*[@role='menuitem'][contains(., '${words}')]`);
};

beforeAll(async () => {
  app.write("src/shop/Dockerfile", `${BASE}COPY note /note\nARG GREETING=hello\nRUN echo "$GREETING"\n`);
  app.write("src/shop/note", "one\n");
  app.write("src/vault/Dockerfile", `${BASE}RUN --mount=type=secret,id=token,required=true test "$(wc -c < /run/secrets/token)" = ${SECRET.length} && echo it fits\n`);
  for (const name of ["shop", "vault"]) copyFileSync("/bin/busybox", app.at(`src/${name}/busybox`));
  await app.open();
  await app.press("Start the machine");
  await app.see("No builds yet");
  expect(app.buildx("create", "--name", "kiln", "--driver", "remote", `unix://${app.at("r/buildkitd.sock")}`)).toMatchObject({ status: 0 });
});
afterAll(() => app.close());

test("a folder of the desktop’s dialog is built again when it changes", async () => {
  await app.click("//a[normalize-space()='New build']");
  await choose("Choose a folder to build", app.at("src/shop"), "folder");
  await app.see("GREETING");
  await app.click("//label[contains(., 'Keep in Kiln')]");
  await app.type("tags", "shop:1");
  await app.click("//label[normalize-space()='Watch']");
  await app.press("Build and watch");
  await app.see("Waiting for a change");
  app.write("src/shop/note", "two\n");
  await app.see("note changed");
  await app.until("the second build", () => app.buildx("history", "ls", "--format", "{{.Ref}}").stdout.trim().split("\n").length === 2);
  await app.see("Waiting for a change");
  await app.press("Stop watching");
  await app.go("Builds");
  await app.see("2 builds");
});

test("it is built once more with one click, and with another input by the form", async () => {
  await app.click("(//a[.//span[text()='shop']])[1]");
  await button("Rebuild");
  await app.until("a third build", () => app.buildx("history", "ls", "--format", "{{.Ref}}").stdout.trim().split("\n").length === 3);
  await app.see("Built shop:1 in");
  await button("Rebuild with…");
  await app.see("Rebuild with changes");
  await app.type("arg-GREETING", "salut");
  await button("Build");
  await app.see("Built shop:1 in");
  await app.click("//button[@role='tab'][contains(., 'Logs')]");
  await app.see("salut");
});

test("a build of stock buildx says what of it isn’t known, before it starts", async () => {
  expect(app.buildx("build", "--output", `type=local,dest=${app.at("out")}`, app.at("src/shop")).status).toBe(0);
  await app.go("Builds");
  await app.see("5 builds");
  await app.click("(//a[.//span[text()='shop']])[1]");
  await app.see("Built in");
  await button("Rebuild");
  await app.see("Where its files went isn’t recorded.");
  await app.picture("window-rebuild");
});

test("a secret of the keyring reaches its step, and nothing else", async () => {
  expect(await app.desktop({ do: "keyring" })).toBe(true);
  await app.click("//nav//a[contains(., 'Builds')]");
  await app.click("//a[normalize-space()='New build']");
  await choose("Choose a folder to build", app.at("src/vault"), "folder");
  await app.until("the secret’s source", () => app.script(`const e = document.querySelector("select[aria-label='Where token comes from']"); if (!e) return false; e.value = "keyring"; e.dispatchEvent(new Event("change", { bubbles: true })); return true;`));
  await app.type("secret-value", SECRET);
  await app.press("Keep it");
  await app.until("the keyring to have it", () => app.script(`return document.querySelector("select[aria-label='Name of token in the keyring']")?.value === "token"`));
  await button("Build");
  await app.see("Built in");
  await app.click("//button[@role='tab'][contains(., 'Logs')]");
  await app.see("it fits");
  await action("Export as .dockerbuild");
  await app.type("export-path", app.at("vault.dockerbuild"));
  await button("Export");
  await app.until("the record", () => existsSync(app.at("vault.dockerbuild")));
  expect(app.buildx("history", "logs").stdout + app.buildx("history", "inspect").stdout).not.toContain(SECRET);
  // The keyring’s own file is the one place; an archive may be compressed.
  const unpacked = spawnSync("sh", ["-c", 'gzip -dcf "$1"', "sh", app.at("vault.dockerbuild")], { encoding: "latin1", maxBuffer: 1 << 28 });
  expect(unpacked.stdout.length).toBeGreaterThan(100);
  expect(unpacked.stdout).not.toContain(SECRET);
  const found = spawnSync("grep", ["-rlaF", "--devices=skip", "--exclude-dir=keyrings", SECRET, app.home], { encoding: "utf8" });
  expect(found.stdout).toBe("");
});

test("a record goes out as a file, and comes back", async () => {
  await app.go("Builds");
  await app.click("(//a[.//span[text()='vault']])[1]");
  await app.see("Built in");
  await action("Export as .dockerbuild");
  await choose("Export the build as", app.at("chosen"), "export-path", app.at("chosen.dockerbuild"));
  await button("Export");
  await app.until("the file", () => existsSync(app.at("chosen.dockerbuild")));
  await action("Delete");
  await app.until("the engine without it", () => app.buildx("history", "ls", "--format", "{{.Ref}}").stdout.trim().split("\n").length === 5);
  await app.go("Builds");
  await app.press("Import…");
  await choose("Choose a build’s record", app.at("chosen.dockerbuild"), "import-path");
  await button("Import");
  await app.see("imported");
  await app.click("//button[@role='tab'][contains(., 'Logs')]");
  await app.see("it fits");
});

test("an image goes to an archive, is removed, and comes back", async () => {
  await app.go("Images");
  await app.click("//input[@aria-label='Select shop:1']");
  await app.press("Save…");
  await choose("Save the images as", app.at("shop.tar"), "image-file");
  await button("Save");
  await app.until("the archive", () => existsSync(app.at("shop.tar")));
  await app.until("the dialog’s end", async () => !(await app.script("return document.querySelector('[role=dialog]') !== null")));
  await button("Remove…");
  await app.press("Remove, and free");
  await app.see("No images yet");
  await app.press("Load…");
  await choose("Choose an archive of images", app.at("shop.tar"), "image-file");
  await button("Load");
  await app.see("Loaded shop:1");
});

test("a link opens a build, and nothing starts with the session unless it is asked to", async () => {
  const [ref] = app.buildx("history", "ls", "--format", "{{.Ref}}").stdout.trim().split("\n");
  const name = ref?.split("/").at(-1) ?? "";
  expect(await app.desktop({ do: "run", command: [app.program, `kiln://build/${name}`] })).toBe(0);
  await app.until("its screen", async () => String(await app.script("return location.hash")).startsWith(`#/build/${name}`));
  await app.see("Rebuild with…");
  expect(existsSync(app.at(".config/autostart"))).toBe(false);
});

test("a support bundle is written where the dialog says", async () => {
  await app.go("Doctor");
  await app.press("Support bundle…");
  await app.see("versions.json");
  await choose("Save the support bundle as", app.at("help.tar.gz"), "support-path");
  await app.press("Write the file");
  await app.until("the bundle", () => existsSync(app.at("help.tar.gz")));
  expect(spawnSync("tar", ["-tzf", app.at("help.tar.gz")], { encoding: "utf8" }).stdout).toContain("versions.json");
});

test("how long builds are remembered is the engine’s after its next start", async () => {
  await app.go("Settings");
  await app.type("retention-size", "0.000001");
  await app.press("Save retention");
  await app.see("Restart the machine now");
  await app.picture("window-retention");
  await app.press("Restart the machine now");
  await app.see("the settings are in force");
  expect(readFileSync(app.at("c/settings.toml"), "utf8")).toContain("maxSize = 1000");
  expect(app.buildx("build", app.at("src/shop")).status).toBe(0);
  await app.until("the older ones to go", () => app.buildx("history", "ls", "--format", "{{.Ref}}").stdout.trim().split("\n").length === 1);
});
