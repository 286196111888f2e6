// Records real builds for the mock host: a stock buildx drives a kilnd, and what both say is kept.
//
//   KILN_KILND=path/to/kilnd BUILDX=path/to/docker-buildx ROOTFS=rootfs.tar node ui/testdata/record.mjs
//
// Needs root, `docker-registry` and loopback. Writes builds/*.json and cache.json beside itself: the
// status stream of each build as buildx prints it with `--progress rawjson`, its record as
// `buildx history inspect` prints it, and the cache as `buildx du` prints it. Nothing in them is edited but
// the paths of this machine and the address of the registry.
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync, rmSync, existsSync, copyFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const { KILN_KILND: kilnd, BUILDX: buildx, ROOTFS: rootfs } = process.env;
if (!kilnd || !buildx || !rootfs) throw new Error("set KILN_KILND, BUILDX and ROOTFS");
const bed = mkdtempSync(join(tmpdir(), "kiln-record-"));
const home = join(bed, "home");
mkdirSync(join(home, "docker"), { recursive: true });
const port = 5900 + Math.floor(Math.random() * 90);
const registry = `127.0.0.1:${port}`;

function file(path, text) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}
file(join(bed, "registry.yml"), `version: 0.1
storage: {filesystem: {rootdirectory: ${join(bed, "registry")}}, delete: {enabled: true}}
http: {addr: "${registry}"}
`);
file(join(bed, "kilnd.toml"), `[registry."docker.io"]
  mirrors = ["${registry}"]
[registry."${registry}"]
  http = true
`);
const socket = join(bed, "kilnd.sock");
const children = [
  spawn("docker-registry", ["serve", join(bed, "registry.yml")], { stdio: "ignore" }),
  spawn(kilnd, ["--addr", `unix://${socket}`, "--root", join(bed, "root"), "--config", join(bed, "kilnd.toml")], {
    stdio: ["ignore", "ignore", "inherit"],
  }),
];
const env = { ...process.env, HOME: home, DOCKER_CONFIG: join(home, "docker"), BUILDX_BUILDER: "kiln", SOURCE_DATE_EPOCH: "" };
const run = (args, options = {}) => spawnSync(buildx, args, { env, encoding: "utf8", maxBuffer: 1 << 30, ...options });

const clean = (text) =>
  text.replaceAll(registry, "registry.example.com").replaceAll(join(bed, "src"), "/home/ada/src").replaceAll(bed, "/home/ada");

const builds = [];
function build(name, project, args, dockerfile) {
  const cwd = join(bed, "src", project);
  const result = run(["build", "--progress", "rawjson", "--metadata-file", join(bed, "meta.json"), ...args, "."], { cwd });
  const stream = result.stderr.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
  const list = run(["history", "ls", "--format", "json"]);
  const newest = list.stdout.trim().split("\n").map((line) => JSON.parse(line))[0];
  const ref = newest.ref.split("/").pop();
  const inspect = run(["history", "inspect", "--format", "json", ref]);
  const record = inspect.stdout ? JSON.parse(inspect.stdout) : { error: inspect.stderr };
  // buildx's own stack says where buildx is installed.
  if (record.Error) delete record.Error.Stack;
  const out = { name, project, args, exit: result.status, newest, record, dockerfile, stream };
  file(join(here, "builds", `${name}.json`), clean(JSON.stringify(out, null, 1)) + "\n");
  builds.push(name);
  console.log(name, "exit", result.status, "updates", stream.length, result.status ? result.stderr.split("\n").slice(-4).join(" | ").slice(0, 400) : "");
}

const shop = `# syntax=docker/dockerfile:1
ARG DEBIAN=bookworm-slim
FROM debian:\${DEBIAN} AS base
WORKDIR /app
RUN groupadd -r shop && useradd -r -g shop shop

FROM base AS deps
COPY package.json lock.txt ./
RUN --mount=type=cache,target=/root/.npm,id=npm \\
    for n in $(cat lock.txt); do echo "added $n"; dd if=/dev/urandom of=/root/.npm/$n bs=64k count=4 status=none; mkdir -p node_modules/$n; cp /root/.npm/$n node_modules/$n/index.js; sleep 0.05; done

FROM deps AS build
ARG NODE_ENV=production
COPY src ./src
RUN for f in src/*; do printf '\\033[32m✓\\033[0m compiled \\033[1m%s\\033[0m\\n' "$f"; sleep 0.1; done; mkdir dist && cat src/* > dist/app.js
RUN head -c 300000 /dev/urandom > dist/vendor.js; echo "dist/vendor.js  293 kB"

FROM deps AS test
COPY src ./src
COPY test ./test
RUN for t in test/*; do printf '\\033[36m RUN \\033[0m %s\\n' "$t"; sleep 0.2; printf '\\033[32m  ok \\033[0m %s\\n' "$t"; done; touch /passed

FROM base AS runtime
COPY --from=deps /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY --from=test /passed /tmp/passed
USER shop
LABEL org.opencontainers.image.title=webshop
CMD ["sh", "-c", "cat dist/app.js"]
`;
const api = (fails) => `FROM debian:bookworm-slim AS build
WORKDIR /src
COPY Cargo.toml ./
RUN echo "    Updating index"; for i in 1 2 3 4 5 6; do echo "  Downloaded crate-$i v0.$i.0"; sleep 0.1; done
COPY src ./src
RUN --mount=type=cache,target=/src/target \\
    --mount=type=secret,id=token \\
    sh ./src/compile.sh

from debian:bookworm-slim
COPY --from=build /src/out /usr/local/bin/api
ENTRYPOINT ["/usr/local/bin/api"]
`;
const compile = (fails) => `set -e
mkdir -p target
for m in config store http auth main; do
  printf '\\033[1;32m   Compiling\\033[0m %s v0.4.1 (/src/%s)\\n' $m $m; sleep 0.15
done
${fails ? `printf '\\033[1;31merror[E0425]\\033[0m\\033[1m: cannot find value \\140pool\\140 in this scope\\033[0m\\n  --> src/auth.rs:42:18\\n   |\\n42 |     let conn = pool.get().await?;\\n   |                \\033[1;31m^^^^ not found in this scope\\033[0m\\n\\n' >&2
printf '\\033[1;31merror\\033[0m: could not compile \\140api\\140 due to 1 previous error\\n' >&2
exit 101` : "head -c 2000000 /dev/zero > out"}
`;
const docs = `FROM debian:bookworm-slim AS html
COPY guide /guide
RUN mkdir /site; for f in /guide/*; do n=$(basename $f .md); echo "rendering $n.html"; (echo "<h1>$n</h1>"; cat $f) > /site/$n.html; done
RUN i=0; while [ $i -lt 6000 ]; do echo "[check] link $i of 6000: /guide/chapter-$((i % 40)).html#section-$((i % 7)) ok"; i=$((i+1)); done

FROM scratch
COPY --from=html /site /
`;

try {
  for (let tries = 0; tries < 100 && !existsSync(socket); tries++) await new Promise((done) => setTimeout(done, 200));
  const created = run(["create", "--name", "kiln", "--driver", "remote", `unix://${socket}`]);
  if (created.status) throw new Error(created.stderr);

  const base = join(bed, "src", "base");
  mkdirSync(base, { recursive: true });
  copyFileSync(rootfs, join(base, "rootfs.tar"));
  file(join(base, "Dockerfile"), "FROM scratch\nADD rootfs.tar /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nCMD [\"bash\"]\n");
  const pushed = run(["build", "--output", `type=image,"name=${registry}/library/debian:bookworm-slim",push=true`, "--provenance=false", "."], { cwd: base });
  if (pushed.status) throw new Error(pushed.stderr);
  run(["history", "rm", "--all"]);
  run(["prune", "--all", "--force"]);

  const at = (project, path, text) => file(join(bed, "src", project, path), text);
  at("webshop", "Dockerfile", shop);
  at("webshop", "package.json", '{"name":"webshop","version":"2.3.0"}\n');
  at("webshop", "lock.txt", "express pino zod undici sharp helmet redis pg jose luxon dotenv cookie\n");
  for (const f of ["cart", "checkout", "index", "mail", "search", "session"]) at("webshop", `src/${f}.js`, `export const ${f} = 1;\n`);
  for (const f of ["cart", "checkout", "mail", "search"]) at("webshop", `test/${f}.test.js`, `// ${f}\n`);
  at("api", "Dockerfile", api());
  at("api", "Cargo.toml", '[package]\nname = "api"\n');
  at("api", "src/compile.sh", compile(false));
  at("api", "token", "s3cr3t-value\n");
  at("docs", "Dockerfile", docs);
  for (let n = 1; n <= 12; n++) at("docs", `guide/chapter-${n}.md`, `chapter ${n}\n`.repeat(20));

  const image = (name) => ["--output", `type=image,"name=${registry}/${name}",push=true`];
  const secret = ["--secret", "id=token,src=token"];
  build("webshop-first", "webshop", [...image("shop/webshop:2.3.0"), "--build-arg", "NODE_ENV=production"], shop);
  build("api-first", "api", [...image("shop/api:dev"), ...secret], api());
  build("webshop-cached", "webshop", [...image("shop/webshop:2.3.0"), "--build-arg", "NODE_ENV=production"], shop);
  at("webshop", "src/checkout.js", "export const checkout = 2;\n");
  build("webshop-changed", "webshop", [...image("shop/webshop:2.3.1"), "--build-arg", "NODE_ENV=production"], shop);
  build("docs-export", "docs", ["--output", `type=local,dest=${join(bed, "out")}`], docs);
  at("api", "src/compile.sh", compile(true));
  build("api-failed", "api", [...image("shop/api:dev"), ...secret], api());
  at("webshop", "Dockerfile", shop.replace("CMD [", "CMDD ["));
  build("webshop-syntax", "webshop", [], shop.replace("CMD [", "CMDD ["));
  const du = run(["du", "--format", "json"]);
  file(join(here, "cache.json"), clean(JSON.stringify(du.stdout.trim().split("\n").map((l) => { try { return JSON.parse(l); } catch { return l; } }), null, 1)) + "\n");
  if (du.status) console.log("du:", du.stderr);
} finally {
  for (const child of children) child.kill("SIGTERM");
  await Promise.all(children.map((child) => new Promise((done) => child.once("exit", done))));
  if (!process.env.KEEP) rmSync(bed, { recursive: true, force: true });
}
