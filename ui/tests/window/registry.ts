// A registry that serves `ada`, whose password is `right`, and nobody else.
import { spawn, type ChildProcess } from "node:child_process";
import { openSync } from "node:fs";
import { freePort, type Window } from "./bed";

// As `htpasswd -B` writes it.
const GUARD = "ada:$2y$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n";

export class Registry {
  private constructor(readonly host: string, private readonly child: ChildProcess) {}

  static async start(app: Window): Promise<Registry> {
    const host = `127.0.0.1:${await freePort()}`;
    app.write("registry/users", GUARD);
    app.write("registry/config.yml", `version: 0.1
log: { level: warn }
storage: { filesystem: { rootdirectory: ${app.at("registry/data")} }, delete: { enabled: true } }
http: { addr: "${host}" }
auth: { htpasswd: { realm: tests, path: ${app.at("registry/users")} } }
`);
    const log = openSync(app.at("registry/log"), "a");
    const child = spawn("docker-registry", ["serve", app.at("registry/config.yml")], { stdio: ["ignore", log, log] });
    const registry = new Registry(host, child);
    await app.until("the registry", async () => (await fetch(`http://${host}/v2/`)).status === 401);
    return registry;
  }

  /** Tags of a repository, as the registry itself says. */
  async tags(repository: string): Promise<string[]> {
    const login = { authorization: `Basic ${Buffer.from("ada:right").toString("base64")}` };
    const response = await fetch(`http://${this.host}/v2/${repository}/tags/list`, { headers: login });
    return response.ok ? ((await response.json()) as { tags: string[] | null }).tags ?? [] : [];
  }

  stop(): void {
    this.child.kill();
  }
}
