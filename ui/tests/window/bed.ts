// The real window: the app under Xvfb, driven through WebKitWebDriver; a real kiln-vmd with the native driver.
//
//   KILN_DESKTOP=… KILN_VMD=… KILN_KILND=… BUILDX=… npm run test:window
//
// Debian packages: webkit2gtk-driver xvfb dbus-daemon python3-dbus python3-gi busybox-static
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ELEMENT = "element-6066-11e4-a52e-4f735466cecf";

function need(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`set ${name}`);
  return value;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}

export class Window {
  readonly home = mkdtempSync(join(tmpdir(), "kw"));
  private driver: ChildProcess | undefined;
  private answers: ((line: string) => void)[] = [];
  private base = "";
  private session = "";

  at(path: string): string {
    return join(this.home, path);
  }

  write(path: string, text: string): void {
    mkdirSync(dirname(this.at(path)), { recursive: true });
    writeFileSync(this.at(path), text);
  }

  get environment(): NodeJS.ProcessEnv {
    return {
      ...process.env, HOME: this.home, XDG_RUNTIME_DIR: this.at("x"), LANG: "en_US.UTF-8", LC_ALL: "", KILN_RUNTIME_DIR: this.at("r"), KILN_STATE_DIR: this.at("s"),
      KILN_CONFIG_DIR: this.at("c"), KILN_DRIVER: "native", KILN_VMD: need("KILN_VMD"), KILN_KILND: need("KILN_KILND"), TAURI_WEBVIEW_AUTOMATION: "true",
      DOCKER_CONFIG: this.at("docker"), BUILDX_BUILDER: "kiln",
    };
  }

  async open(): Promise<void> {
    for (const folder of ["x", "c", "docker", "bin"]) mkdirSync(this.at(folder), { mode: 0o700 });
    const port = await freePort();
    this.base = `http://127.0.0.1:${port}`;
    const desktop = fileURLToPath(new URL("desktop.py", import.meta.url));
    const driver = spawn("dbus-run-session", ["--", "xvfb-run", "-a", "-s", "-screen 0 1280x800x24", "/usr/bin/python3", desktop, "WebKitWebDriver", `--port=${port}`], {
      env: this.environment, stdio: ["pipe", "pipe", openSync(this.at("log"), "a")], detached: true,
    });
    this.driver = driver;
    if (driver.stdout) createInterface({ input: driver.stdout }).on("line", (line) => this.answers.shift()?.(line));
    const answer = await this.until("the driver", () =>
      this.call("POST", "/session", { capabilities: { alwaysMatch: { browserName: "wry", "webkitgtk:browserOptions": { binary: need("KILN_DESKTOP"), args: [] } } } }),
    );
    this.session = `/session/${(answer as { sessionId: string }).sessionId}`;
  }

  /** Asks the desktop: see desktop.py. */
  desktop<T>(request: Record<string, unknown>): Promise<T> {
    const answer = new Promise<T>((done) => this.answers.push((line) => done(JSON.parse(line) as T)));
    this.driver?.stdin?.write(`${JSON.stringify(request)}\n`);
    return answer;
  }

  private async call(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(this.base + path, { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }), signal: AbortSignal.timeout(60_000) });
    const { value } = (await response.json()) as { value: { error?: string; message?: string } };
    if (!response.ok) throw new Error(`${path}: ${value.error}: ${value.message}`);
    return value;
  }

  async until<T>(what: string, attempt: () => Promise<T | false | undefined | null>): Promise<T> {
    const deadline = Date.now() + 60_000;
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

  /** Clicks what XPath finds first. */
  async click(xpath: string): Promise<void> {
    await this.until(xpath, async () => {
      const found = (await this.call("POST", `${this.session}/element`, { using: "xpath", value: xpath })) as Record<string, string>;
      await this.call("POST", `${this.session}/element/${found[ELEMENT]}/click`, {});
      return true;
    });
  }

  /** Types into a field, in place of what is there. */
  async type(id: string, text: string): Promise<void> {
    const set = `const e = document.getElementById(arguments[0]); if (!e) return false; e.value = arguments[1]; e.dispatchEvent(new Event("input", { bubbles: true })); return true;`;
    await this.until(`the field ${id}`, () => this.script(set, id, text));
  }

  async picture(path: string): Promise<void> {
    writeFileSync(path, Buffer.from(String(await this.call("GET", `${this.session}/screenshot`)), "base64"));
  }

  buildx(...args: string[]): { status: number | null; stderr: string } {
    return spawnSync(need("BUILDX"), args, { env: this.environment, encoding: "utf8" });
  }

  /** One that goes on while the test does; the promise is of its status. */
  startBuildx(...args: string[]): Promise<number | null> {
    const child: ChildProcess = spawn(need("BUILDX"), args, { env: this.environment, stdio: "ignore" });
    return new Promise((done) => child.once("exit", done));
  }

  async close(): Promise<void> {
    if (this.session) await this.call("DELETE", this.session).catch(() => {});
    const ended = new Promise((done) => this.driver?.once("exit", done));
    if (this.driver?.pid && this.driver.exitCode === null) {
      try {
        process.kill(-this.driver.pid, "SIGTERM");
        await ended;
      } catch {
        // It has ended.
      }
    }
    // The owner of the machine outlives the app, as it should; here it ends with the test.
    spawnSync("sh", ["-c", `for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ 2>/dev/null | grep -qx "KILN_RUNTIME_DIR=${this.at("r")}" && kill \${p#/proc/} 2>/dev/null; done; true`]);
    await new Promise((done) => setTimeout(done, 3000));
    rmSync(this.home, { recursive: true, force: true, maxRetries: 5 });
  }
}
