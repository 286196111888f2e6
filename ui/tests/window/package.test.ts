// The Debian package: installed by the machine's own dpkg, started, built with, removed. The file system that it goes to
// is a layer over the machine's own, in the mount namespace that `cargo xtask test window` made.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, lstatSync, mkdtempSync, mkdirSync, readFileSync, readlinkSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Window, need } from "./bed";
import { executable } from "./processes";

const COVERED = ["/usr", "/var/lib/dpkg"];
const layer = mkdtempSync(join(tmpdir(), "kp"));
let app: Window | undefined;

/** Runs it to its end; what it printed. */
function run(program: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: "utf8", env: { ...process.env, LC_ALL: "C.UTF-8", DEBIAN_FRONTEND: "noninteractive" } });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${error ?? stderr + stdout}`);
  return stdout;
}
const dpkg = (...args: string[]): string => run("dpkg", `--log=${join(layer, "log")}`, ...args);
const mounted: string[] = [];
function mount(...args: string[]): void {
  run("mount", ...args);
  mounted.push(args.at(-1) ?? "");
}
let files: string[] = [];

beforeAll(() => {
  if (readlinkSync("/proc/self/ns/mnt") === need("KILN_MOUNTS")) throw new Error("run it by cargo xtask test window, which keeps it off the machine");
  mount("-t", "tmpfs", "kiln-package-test", layer);
  for (const [n, path] of COVERED.entries()) {
    const [upper, work] = [join(layer, `upper${n}`), join(layer, `work${n}`)];
    mkdirSync(upper);
    mkdirSync(work);
    mount("-t", "overlay", "overlay", "-o", `lowerdir=${path},upperdir=${upper},workdir=${work}`, path);
  }
});
afterAll(async () => {
  await app?.close();
  // What still runs from there keeps it until it ends.
  for (const path of mounted.reverse()) run("umount", "--lazy", path);
  rmdirSync(layer);
});

test("it installs with the dependencies that it names, and says what it is", () => {
  dpkg("--install", need("KILN_PACKAGE"));
  expect(dpkg("--verify", "kiln")).toBe("");
  files = dpkg("--listfiles", "kiln").trim().split("\n").filter((path) => !lstatSync(path).isDirectory());
  for (const path of files) {
    const { uid, gid, mode } = lstatSync(path);
    expect({ path, uid, gid, mode: (mode & 0o7777).toString(8) }).toEqual({ path, uid: 0, gid: 0, mode: path.startsWith("/usr/bin/") ? "755" : "644" });
  }
  for (const about of ["copyright", "changelog.gz"]) expect(files).toContain(`/usr/share/doc/kiln/${about}`);
  for (const name of ["kiln-desktop", "kiln", "kiln-vmd", "kilnd"]) expect(files).toContain(`/usr/share/man/man1/${name}.1.gz`);
  const entry = "/usr/share/applications/dev.kiln.desktop.desktop";
  run("desktop-file-validate", entry);
  // dpkg's trigger of desktop-file-utils: links open the app.
  expect(readFileSync("/usr/share/applications/mimeinfo.cache", "utf8")).toContain("x-scheme-handler/kiln=dev.kiln.desktop.desktop;");
});

test("each library that a program needs is in a package that it depends on", () => {
  const depends = run("dpkg-query", "--show", "--showformat=${Depends}", "kiln");
  const names = depends.split(",").map((one) => one.trim().split(" ")[0] ?? "");
  const all = run("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances", ...names);
  const known = new Set(all.split("\n").filter((line) => /^\S/.test(line)));
  // A static program has none.
  const programs = ["kiln", "kiln-desktop", "kiln-vmd", "kilnd"].map((name) => spawnSync("ldd", [`/usr/bin/${name}`], { encoding: "utf8" }).stdout);
  const libraries = new Set(programs.flatMap((text) => [...text.matchAll(/^\s*(\S+) => \//gm)].map(([, name]) => `*/${name}`)));
  const owners = run("dpkg-query", "--search", ...libraries).trim().split("\n").map((line) => line.split(":")[0] ?? "");
  expect(owners.length).toBeGreaterThanOrEqual(libraries.size);
  expect(owners.filter((owner) => !known.has(owner))).toEqual([]);
});

test("the installed app starts its own kiln-vmd and kilnd, and shows what the installed command builds", async () => {
  app = new Window({ program: "/usr/bin/kiln-desktop", programs: {} });
  app.write("src/shop/Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\nRUN echo baked\n");
  copyFileSync("/bin/busybox", app.at("src/shop/busybox"));
  await app.open();
  await app.press("Start the machine");
  await app.see("No builds yet");
  for (const name of ["kiln-desktop", "kiln-vmd", "kilnd"]) {
    const found = app.processes(name).map(executable);
    expect(new Set(found)).toEqual(new Set([`/usr/bin/${name}`]));
  }
  const built = spawnSync("/usr/bin/kiln", ["build", app.at("src/shop")], { env: app.environment, encoding: "utf8" });
  expect(built.status, built.stderr).toBe(0);
  await app.see("1 build");
  await app.close();
  app = undefined;
});

test("its removal leaves nothing", () => {
  dpkg("--purge", "kiln");
  expect(files.filter((path) => existsSync(path))).toEqual([]);
  expect(existsSync("/usr/share/kiln")).toBe(false);
});
