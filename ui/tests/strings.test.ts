// The catalogue has the strings of the sources, all of them and no other.
// Blanks at their ends are left out, since one key stands for both. Every file is visited: in sequence (`--sync`) wuchale
// stops at the first one with news.
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import PO from "pofile";
import { expect, test } from "vitest";

const ui = `${process.cwd()}/`;
const FOLDER = "node_modules/.cache/strings";

test.each(["screens", "code"])("the catalogue of the %s is up to date; else: npm run strings", (part) => {
  mkdirSync(`${ui}node_modules/.cache`, { recursive: true });
  rmSync(ui + FOLDER, { recursive: true, force: true });
  cpSync(`${ui}src/locales`, ui + FOLDER, { recursive: true });
  execFileSync(process.execPath, [`${ui}node_modules/wuchale/dist/cli/index.js`, "--clean"], { cwd: ui, env: { ...process.env, KILN_LOCALES_DIR: FOLDER }, stdio: "pipe" });
  const strings = (folder: string): string[] => PO.parse(readFileSync(`${ui}${folder}/${part}/en.po`, "utf8")).items.map((item) => [item.msgctxt ?? "", item.msgid, item.msgid_plural ?? ""].join("\n").trim()).sort();
  expect(strings("src/locales")).toEqual(strings(FOLDER));
});
