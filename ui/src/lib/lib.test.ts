// The plain parts, as tables.
import { describe, expect, test } from "vitest";
import type { BuildRequest, BuildUpdate, Vertex } from "../host/types";
import { detail, summary, update } from "../host/recorded";
import { recordings } from "../host/mock";
import { spans, strip } from "./ansi";
import { buildCommand, isRemote, problems } from "./command";
import { everything, matches } from "./filter";
import { ago, count, day, duration, material, percent, shortImage, size, sizeOf } from "./format";
import { sentence } from "./policy";
import { request } from "../host/request";
import { Build, parseName, state } from "./steps";
import { treemap } from "./treemap";

const recording = (name: string) => recordings.find((r) => r.name === name)!;
export function replay(name: string, keep?: number): Build {
  const build = new Build(keep);
  for (const go of recording(name).stream) build.apply(update(go));
  build.apply({ vertices: [], progress: [], logs: [], warnings: [], end: true });
  return build;
}

test.each([[0, "0 ms"], [340, "340 ms"], [999, "999 ms"], [3100, "3.1 s"], [59_960, "1m 00s"], [64_000, "1m 04s"], [7_500_000, "2h 05m"], [-1, "–"]])("%d ms reads %s", (ms, text) => expect(duration(ms)).toBe(text));
test.each([[0, "0 bytes"], [1, "1 byte"], [999, "999 bytes"], [4096, "4.1 kB"], [999_960, "1.0 MB"], [6.1e9, "6.1 GB"]])("%d bytes read %s", (n, text) => expect(size(n)).toBe(text));
test.each([[0, 9, "0%"], [1, 3, "33%"], [4, 3000, "<1%"], [3, 3, "100%"], [0, 0, "0%"]])("%d of %d read %s", (part, of, text) => expect(percent(part, of)).toBe(text));
test.each([[0, 999, "0 of 999 bytes"], [1, 4096, "0.0 of 4.1 kB"], [41_200_000, 180_000_000, "41.2 of 180.0 MB"], [600_000, 999_960, "0.6 of 1.0 MB"], [1e9, 6.1e15, "0.0 of 6,100.0 TB"]])("%d of %d bytes read %s", (part, all, text) => expect(sizeOf(part, all)).toBe(text));
test("times are told from now", () => {
  const now = Date.parse("2026-11-24T12:00:00Z");
  const before = (s: number) => now - s * 1000;
  expect([10, 240, 3 * 3600, 30 * 3600, 4 * 86_400, 40 * 86_400, 500 * 86_400].map((s) => ago(before(s), now))).toEqual(["just now", "4 min ago", "3 h ago", "yesterday", "4 days ago", "15 Oct", "12 Jul 2025"]);
  expect([day(now, now), day(before(86_400), now), day(before(10 * 86_400), now)]).toEqual(["Today", "Yesterday", "14 Nov"]);
});
test("names lose what says nothing", () => {
  expect(shortImage("docker.io/library/debian:12")).toBe("debian:12");
  expect(shortImage("registry.example.com/a:1")).toBe("registry.example.com/a:1");
  expect(material("pkg:docker/debian@bookworm?digest=sha256%3Aabc&platform=linux%2Famd64")).toBe("debian:bookworm");
  expect(material("https://example.com/x.git#main")).toBe("https://example.com/x.git#main");
});

describe("ansi", () => {
  test.each([
    ["plain", [["plain", ""]]], ["", []], ["\x1b[31mred\x1b[0m no", [["red", "ansi-red"], [" no", ""]]], ["\x1b[1;32mok", [["ok", "ansi-green ansi-bold"]]],
    ["\x1b[38;5;9mx\x1b[39my", [["x", "ansi-red"], ["y", ""]]], ["\x1b[38;2;1;2;3mx", [["x", ""]]], ["10%\r50%\r100%", [["100%", ""]]], ["\x1b[2K\x1b[1Ga", [["a", ""]]], ["\x1b]0;title\x07a", [["a", ""]]],
  ])("%j", (text, want) => expect(spans(text).map((s) => [s.text, s.style])).toEqual(want));
  test("stripping leaves the words", () => expect(strip("\x1b[1m a\x1b[0m\r")).toBe(" a"));
});

test.each([
  ["[build 6/6] RUN  make", { title: "RUN make", stage: "build", platform: "", internal: false }],
  ["[linux/arm64 build 1/2] FROM x", { title: "FROM x", stage: "build", platform: "linux/arm64", internal: false }],
  ["[internal] load .dockerignore", { title: "load .dockerignore", stage: "", platform: "", internal: true }],
  ["exporting to image", { title: "exporting to image", stage: "", platform: "", internal: true }],
  ["[2/3] COPY . .", { title: "COPY . .", stage: "", platform: "", internal: false }],
  ["[linux/arm64 2/3] COPY . .", { title: "COPY . .", stage: "", platform: "linux/arm64", internal: false }],
  ["[stage-1 2/3] COPY a b", { title: "COPY a b", stage: "stage-1", platform: "", internal: false }],
])("%s is understood", (name, want) => expect(parseName(name)).toEqual(want));

describe("a recorded build", () => {
  test("comes to the counts of its record", () => {
    for (const r of recordings) {
      const build = replay(r.name);
      const counts = build.counts();
      expect(counts.running + counts.waiting, r.name).toBe(0);
      const failed = r.stream.flatMap((u) => u.vertexes ?? []).filter((v) => v.error);
      expect(counts.failed, r.name).toBe(failed.length);
    }
  });
  // The engine clips what a step prints too fast, so not all 6,000 are there.
  test("keeps every line that came, in order", () => {
    const lines = [...replay("docs-export").log.lines].map((l) => l.text).filter((l) => l.startsWith("[check]"));
    expect(lines.length).toBeGreaterThan(3000);
    expect(lines.every((l, i) => l.includes(`link ${i} of`))).toBe(true);
  });
  test("drops the oldest lines when there are too many, and says how many", () => {
    const build = replay("docs-export", 1000);
    expect(build.log.lines.length).toBe(1000);
    expect(build.log.dropped + 1000).toBe(replay("docs-export").log.lines.length);
  });
  test("groups steps by stage, preparation first and output last", () => {
    const stages = replay("webshop-first").groups().map((g) => g.stage);
    expect(stages[0]).toBe("Preparation");
    expect(stages.at(-1)).toBe("Output");
    expect(stages).toEqual(expect.arrayContaining(["base", "deps", "build", "test", "runtime"]));
  });
  test("knows its real and its accumulated time", () => {
    const { real, accumulated } = replay("webshop-first").totals(0);
    expect(real).toBeGreaterThan(4000);
    expect(accumulated).toBeGreaterThan(real);
  });
});

test("states of a step", () => {
  const vertex = (v: Partial<Vertex>): BuildUpdate => ({ vertices: [{ digest: "a", inputs: [], name: "a", started: null, completed: null, cached: false, error: "", ...v }], progress: [], logs: [], warnings: [], end: false });
  const at = (v: Partial<Vertex>, ended = false) => {
    const build = new Build();
    build.apply(vertex(v));
    return state(build.list()[0]!, ended);
  };
  expect(at({})).toBe("waiting");
  expect(at({}, true)).toBe("cancelled");
  expect(at({ started: 1 })).toBe("running");
  expect(at({ started: 1 }, true)).toBe("cancelled");
  expect(at({ started: 1, completed: 2 })).toBe("done");
  expect(at({ started: 1, completed: 1, cached: true })).toBe("cached");
  expect(at({ started: 1, completed: 2, error: "exit code: 1" })).toBe("failed");
  expect(at({ started: 1, completed: 2, error: "context canceled" })).toBe("cancelled");
});

test("filters read words anywhere in a build", () => {
  const build = summary(recording("api-failed"));
  for (const [filter, want] of [[{}, true], [{ text: "API exit" }, true], [{ text: "api nothing" }, false], [{ status: "done" as const }, false], [{ status: "failed" as const }, true], [{ project: build.project }, true], [{ project: "x" }, false]] as const) {
    expect(matches(build, { ...everything, ...filter }), JSON.stringify(filter)).toBe(want);
  }
});

const base: BuildRequest = { context: "/src/a b", dockerfile: "Dockerfile", target: "", args: [], labels: [], contexts: [], secrets: [], ssh: [], platforms: [], tags: [], noCache: false, pull: false, output: "cache", destination: "", cacheFrom: [], cacheTo: [] };
test("commands are quoted for a shell", () => {
  expect(buildCommand(base)).toBe("docker buildx build \\\n  '/src/a b'");
  expect(buildCommand({ ...base, context: "/s", dockerfile: "x/D", tags: ["a:1"], args: [{ name: "A", value: "it's" }], secrets: [{ id: "t", source: "env", value: "T" }], platforms: ["linux/amd64", "linux/arm64"], output: "push", noCache: true }, "kiln build"))
    .toBe("kiln build \\\n  --file /s/x/D \\\n  --tag a:1 \\\n  --build-arg 'A=it'\\''s' \\\n  --secret id=t,env=T \\\n  --platform linux/amd64,linux/arm64 \\\n  --no-cache \\\n  --push \\\n  /s");
});
test("a command names what the keyring holds by a variable, and files of a repository by their path there", () => {
  const command = buildCommand({ ...base, context: "https://example.com/shop.git#main", dockerfile: "deploy/Dockerfile", secrets: [{ id: "npm-token", source: "keyring", value: "npm" }], cacheTo: ["type=inline"] });
  expect(command).toBe("docker buildx build \\\n  --file deploy/Dockerfile \\\n  --secret id=npm-token,env=NPM_TOKEN \\\n  --cache-to type=inline \\\n  'https://example.com/shop.git#main'");
  for (const [context, remote] of [["https://example.com/x.git", true], ["git@example.com:me/x.git", true], ["github.com/me/x", true], ["/home/me/x", false], ["./x", false]] as const) expect(isRemote(context), context).toBe(remote);
});
test("what must be mended is said before the build starts", () => {
  expect(problems(base)).toEqual([]);
  expect(problems({ ...base, context: "" })).toEqual(["Choose a folder or a repository to build."]);
  expect(problems({ ...base, output: "push" })).toEqual(["Give the image a name to push it to."]);
  expect(problems({ ...base, secrets: [{ id: "t", source: "file", value: "" }] })[0]).toContain("“t”");
  expect(problems({ ...base, secrets: [] }, ["t"])[0]).toContain("“t”");
  expect(problems({ ...base, secrets: [{ id: "t", source: "file", value: "" }] }, [])).toEqual([]);
  expect(problems({ ...base, tags: ["Upper"] })[0]).toContain("“Upper”");
});
test("a rebuild begins with what the record tells", () => {
  const r = request(detail(recording("webshop-first")));
  expect(r).toMatchObject({ dockerfile: "Dockerfile", args: [{ name: "NODE_ENV", value: "production" }], tags: ["registry.example.com/shop/webshop:2.3.0"], output: "store" });
  expect(request(detail(recording("api-failed"))).secrets).toEqual([{ id: "token", source: "file", value: "" }]);
});

test("policies read as sentences", () => {
  const policy = { all: false, filters: [], keepDurationSeconds: 0, reservedSpace: 0, maxUsedSpace: 0, minFreeSpace: 0 };
  expect(sentence({ ...policy, filters: ["type==source.local,type==exec.cachemount"], keepDurationSeconds: 172_800, maxUsedSpace: 512e6 })).toBe("Build contexts and cache mounts unused for 2 days may go until the cache takes at most 512.0 MB.");
  expect(sentence({ ...policy, all: true, maxUsedSpace: 20e9, minFreeSpace: 5e9, reservedSpace: 1e9 })).toBe("Everything, also internal records, may go until the cache takes at most 20.0 GB and 5.0 GB of the disk are free; 1.0 GB always stay.");
});

test("a treemap's areas stand for sizes and fill the space", () => {
  const boxes = treemap([6, 6, 4, 3, 2, 2, 1, 0], (n) => n, 600, 400);
  expect(boxes.length).toBe(7);
  for (const box of boxes) expect(box.width * box.height).toBeCloseTo((box.item / 24) * 240_000, 3);
  expect(Math.max(...boxes.map((b) => Math.max(b.width / b.height, b.height / b.width)))).toBeLessThan(3);
  expect(treemap([], () => 1, 10, 10)).toEqual([]);
});

test("a number takes the form that its language has for it", () => {
  expect([1, 2, 1234].map((n) => count(n, ["# build", "# builds"]))).toEqual(["1 build", "2 builds", "1,234 builds"]);
  const polish = (n: number): number => (n === 1 ? 0 : n % 10 >= 2 && n % 10 <= 4 && (n % 100 < 12 || n % 100 > 14) ? 1 : 2);
  expect([1, 3, 5, 13].map((n) => count(n, ["# obraz", "# obrazy", "# obrazów"], polish))).toEqual(["1 obraz", "3 obrazy", "5 obrazów", "13 obrazów"]);
});
