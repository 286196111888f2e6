// The real window: the app under Xvfb, driven through WebKitWebDriver; a real kiln-vmd with the native driver.
//
//   cargo xtask test window       installs the packages, builds, sets the variables and runs all of it
//   KILN_DESKTOP=… KILN_VMD=… KILN_KILND=… BUILDX=… npm run test:window
//
// Under load everything here takes ten times as long: each wait is for a condition, with a deadline that only what
// hangs meets.
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { end, processes } from "./processes";

const ELEMENT = "element-6066-11e4-a52e-4f735466cecf";
const PATIENCE = 150_000;

/** A variable of the environment that says where something is. */
export function need(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`set ${name}, or run cargo xtask test window`);
  return value;
}

/** Where pictures go: with `KILN_PICTURES=1` to the documentation. */
export const pictures = fileURLToPath(new URL(process.env.KILN_PICTURES ? "../../../docs/screenshots/" : "../../node_modules/.cache/screenshots/", import.meta.url));

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}

export interface Options {
  /** The app; else `KILN_DESKTOP`. */
  program?: string;
  /** The programs that it starts; an installed app finds them by itself. */
  programs?: NodeJS.ProcessEnv;
  /** More of the environment. */
  more?: NodeJS.ProcessEnv;
}

export class Window {
  readonly home = mkdtempSync(join(tmpdir(), "kw"));
  readonly program: string;
  private readonly programs: NodeJS.ProcessEnv;
  private driver: ChildProcess | undefined;
  private readonly answers: ((line: string) => void)[] = [];
  private base = "";
  private session = "";

  constructor(options: Options = {}) {
    this.program = options.program ?? need("KILN_DESKTOP");
    this.programs = { ...(options.programs ?? { KILN_VMD: need("KILN_VMD"), KILN_KILND: need("KILN_KILND") }), ...options.more };
    mkdirSync(pictures, { recursive: true });
  }

  at(path: string): string {
    return join(this.home, path);
  }

  write(path: string, text: string): void {
    mkdirSync(dirname(this.at(path)), { recursive: true });
    writeFileSync(this.at(path), text);
  }

  get environment(): NodeJS.ProcessEnv {
    const { KILN_VMD: _, KILN_KILND: __, ...around } = process.env;
    return {
      ...around, ...this.programs, HOME: this.home, XDG_RUNTIME_DIR: this.at("x"), LANG: "en_US.UTF-8", LC_ALL: "", KILN_RUNTIME_DIR: this.at("r"), KILN_STATE_DIR: this.at("s"),
      KILN_CONFIG_DIR: this.at("c"), KILN_DRIVER: "native", TAURI_WEBVIEW_AUTOMATION: "true", DOCKER_CONFIG: this.at("docker"), BUILDX_BUILDER: "kiln",
    };
  }

  /** Starts the app in a session of its own: bus, screen, keyring, somebody who shows tray and notifications. */
  async open(): Promise<void> {
    for (const folder of ["x", "c", "docker"]) mkdirSync(this.at(folder), { mode: 0o700, recursive: true });
    const port = await freePort();
    this.base = `http://127.0.0.1:${port}`;
    const desktop = fileURLToPath(new URL("desktop.py", import.meta.url));
    const driver = spawn("dbus-run-session", ["--", "xvfb-run", "-a", "-s", "-screen 0 1280x800x24", "/usr/bin/python3", desktop, "WebKitWebDriver", `--port=${port}`], {
      env: this.environment, stdio: ["pipe", "pipe", openSync(this.at("log"), "a")], detached: true,
    });
    this.driver = driver;
    if (driver.stdout) createInterface({ input: driver.stdout }).on("line", (line) => this.answers.shift()?.(line));
    await this.until("the driver", () => this.call("GET", "/status"));
    // Asked once: a second session would be one too many.
    const answer = await this.call("POST", "/session", { capabilities: { alwaysMatch: { browserName: "wry", "webkitgtk:browserOptions": { binary: this.program, args: [] } } } });
    this.session = `/session/${(answer as { sessionId: string }).sessionId}`;
  }

  /** Asks the desktop: see desktop.py. */
  async desktop<T>(request: Record<string, unknown>): Promise<T> {
    const line = new Promise<string>((done) => this.answers.push(done));
    this.driver?.stdin?.write(`${JSON.stringify(request)}\n`);
    const answer = JSON.parse(await line) as T | { error: string };
    if (typeof answer === "object" && answer !== null && "error" in answer) throw new Error(answer.error);
    return answer as T;
  }

  /** Chooses a line of the tray's menu, once it is there. */
  async tray(label: string): Promise<void> {
    await this.until(`“${label}” in the tray`, () => this.desktop<boolean>({ do: "click", label }));
  }

  private async call(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(this.base + path, { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }), signal: AbortSignal.timeout(PATIENCE) });
    const { value } = (await response.json()) as { value: { error?: string; message?: string } };
    if (!response.ok) throw new Error(`${path}: ${value.error}: ${value.message}`);
    return value;
  }

  async until<T>(what: string, attempt: () => Promise<T | false | undefined | null> | T | false | undefined | null): Promise<T> {
    const deadline = Date.now() + PATIENCE;
    let last: unknown;
    while (Date.now() < deadline) {
      try {
        const value = await attempt();
        if (value) return value;
      } catch (error) {
        last = error;
      }
      await new Promise((done) => setTimeout(done, 100));
    }
    const said = readFileSync(this.at("log"), "utf8").split("\n").slice(-20).join("\n");
    throw new Error(`${what} didn't come: ${String(last ?? "")}\n${await this.text().catch(() => "")}\n--\n${said}`);
  }

  script(text: string, ...args: unknown[]): Promise<unknown> {
    return this.call("POST", `${this.session}/execute/sync`, { script: text, args });
  }

  async text(): Promise<string> {
    return String(await this.script("return document.body.innerText"));
  }

  see(text: string): Promise<boolean> {
    return this.until(`“${text}”`, async () => (await this.text()).includes(text));
  }

  /** Clicks what XPath finds first, once it can be clicked. */
  async click(xpath: string): Promise<void> {
    await this.until(xpath, async () => {
      const found = (await this.call("POST", `${this.session}/element`, { using: "xpath", value: xpath })) as Record<string, string>;
      const element = `${this.session}/element/${found[ELEMENT]}`;
      // The driver takes a click on a disabled button for done.
      if (!(await this.call("GET", `${element}/enabled`))) return false;
      // Nor does it scroll to what is half in view, and misses where its middle isn't.
      await this.script("arguments[0].scrollIntoView({ block: 'nearest', inline: 'nearest' })", found);
      await this.call("POST", `${element}/click`, {});
      return true;
    });
  }

  /** Another screen, by the side bar. */
  go(title: string): Promise<void> {
    return this.click(`//nav//a[contains(., '${title}')]`);
  }

  /** A button, by its words. */
  press(words: string): Promise<void> {
    return this.click(`//button[contains(normalize-space(), '${words}')]`);
  }

  /** Types into a field, in place of what is there. The selector may be an id. */
  async type(field: string, text: string): Promise<void> {
    const set = `const e = document.getElementById(arguments[0]) ?? document.querySelector(arguments[0]); if (!e || e.disabled) return false; e.value = arguments[1]; e.dispatchEvent(new Event("input", { bubbles: true })); return true;`;
    await this.until(`the field ${field}`, () => this.script(set, field, text));
  }

  async picture(name: string): Promise<void> {
    writeFileSync(join(pictures, `${name}.png`), Buffer.from(String(await this.call("GET", `${this.session}/screenshot`)), "base64"));
  }

  buildx(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    return spawnSync(need("BUILDX"), args, { env: this.environment, encoding: "utf8" });
  }

  /** One that goes on while the test does; the promise is of its status. */
  startBuildx(...args: string[]): Promise<number | null> {
    const child: ChildProcess = spawn(need("BUILDX"), args, { env: this.environment, stdio: "ignore" });
    return new Promise((done) => child.once("exit", done));
  }

  /** This test's processes of that program: their numbers. */
  processes(program: string): number[] {
    return processes(this.at("r"), program);
  }

  async close(): Promise<void> {
    if (this.session) await this.call("DELETE", this.session).catch(() => {});
    if (this.driver?.pid && this.driver.exitCode === null) {
      const ended = new Promise((done) => this.driver?.once("exit", done));
      process.kill(-this.driver.pid, "SIGTERM");
      await ended;
    }
    // The owner of the machine outlives the app, as it should; here it ends with the test.
    await end(this.at("r"));
    rmSync(this.home, { recursive: true, force: true, maxRetries: 5 });
  }
}
