// The host of tests: recorded builds, and beside them a machine, images and a plan written by hand. It never
// ships; `main.ts` takes it in mock mode alone.
import cacheFile from "../../testdata/cache.json";
import samples from "../../testdata/samples.json";
import type { Host, Unsubscribe } from "./host";
import { stretch } from "./long";
import { request } from "./request";
import { detail, moment, summary, update, type Recording } from "./recorded";
import type * as t from "./types";

const files = import.meta.glob<Recording>("../../testdata/builds/*.json", { eager: true, import: "default" });
export const recordings: Recording[] = Object.values(files).sort((a, b) => Date.parse(a.record.StartedAt) - Date.parse(b.record.StartedAt));

export interface MockOptions {
  /** Builds repeat this often, further in the past each time. */
  history?: number;
  /** A recording that is shown at work, stopped after this share of its updates. */
  live?: { name: string; share: number };
  /** The recording at work prints so many lines a second, for so long. */
  flood?: { perSecond: number; seconds: number };
  machine?: Partial<t.MachineStatus>;
  /** Lists that stay empty, and calls that fail or never answer. */
  empty?: boolean;
  failing?: boolean;
  pending?: boolean;
  /** Names and messages are as long as they get. */
  long?: boolean;
  theme?: t.AppSettings["theme"];
}

const parseSize = (text: string): number => {
  const match = /^([\d.]+)\s*([kMGT]?)B$/.exec(text);
  return match ? Math.round(Number(match[1]) * { "": 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12 }[match[2] as ""]!) : 0;
};

/** The samples name builds by their recordings. */
function sizes({ name }: Recording): { bytes: number | null; previous: t.PreviousSize | null } {
  const known = samples.sizes as Record<string, { bytes: number; previous?: string }>;
  const { bytes, previous } = known[name] ?? { bytes: null };
  const before = recordings.find((recording) => recording.name === previous);
  return { bytes, previous: before && previous ? { ref: before.record.Ref, bytes: known[previous]?.bytes ?? 0 } : null };
}

const status = (): t.MachineStatus => structuredClone(samples.machine) as t.MachineStatus;

/** Every call that was made, for tests. */
export interface MockHost extends Host {
  calls: { name: string; args: unknown[] }[];
  emitBuilds(change: t.BuildsChange): void;
  /** What comes of the pulls and pushes that go on. */
  emitTransfer(transfer: Partial<t.Transfer>): void;
}

export function mockHost(options: MockOptions = {}): MockHost {
  const newest = Math.max(...recordings.map((r) => Date.parse(r.record.CompletedAt)));
  const now = newest + 4 * 60_000;
  const calls: { name: string; args: unknown[] }[] = [];
  const builds = new Map<string, { recording: Recording; summary: t.BuildSummary; shift: number; live: number | null }>();
  const buildListeners = new Set<(change: t.BuildsChange) => void>();
  const settings = { ...(samples.settings as t.AppSettings), theme: options.theme ?? "light" };
  let machine: t.MachineStatus = { ...status(), ...options.machine };
  let tools: t.ToolState = { installed: false, elsewhere: false, current: false, address: "unix:///run/user/1000/kiln/buildkitd.sock" };
  const transferListeners = new Set<(transfer: t.Transfer) => void>();
  const machineListeners = new Set<(s: t.MachineStatus) => void>();

  if (!options.empty) {
    for (let n = 0; n < (options.history ?? 1); n++) {
      for (const recording of recordings) {
        const shift = -n * 7.3 * 3_600_000;
        const base = summary(recording);
        const ref = n === 0 ? base.ref : `${base.ref.slice(0, 20)}${String(n).padStart(5, "0")}`;
        builds.set(ref, { recording, shift, live: null, summary: { ...base, ref, created: base.created + shift, completed: (base.completed ?? 0) + shift } });
      }
    }
    const live = recordings.find((r) => r.name === options.live?.name);
    if (live && options.live) {
      const updates = live.stream.map((u) => update(u));
      const shown = Math.round(updates.length * options.live.share);
      const last = Math.max(...updates.slice(0, shown).map(moment));
      const shift = now - last - 120;
      const base = summary(live);
      const ref = `live${base.ref.slice(4)}`;
      const done = new Set(updates.slice(0, shown).flatMap((u) => u.vertices.filter((v) => v.completed).map((v) => v.digest)));
      builds.set(ref, {
        recording: live, shift, live: shown,
        summary: { ...base, ref, status: "running", completed: null, created: base.created + shift, completedSteps: done.size },
      });
      machine = { ...machine, runningBuilds: 1 };
    }
  } else machine = { ...machine, disk: machine.disk && { ...machine.disk, used: 120_000_000, reclaimable: 0 } };

  const drawn = <T>(value: T): T => (options.long ? stretch(value) : value);
  const call = async <T>(name: string, args: unknown[], answer: () => T): Promise<T> => {
    calls.push({ name, args });
    if (options.pending) return new Promise<T>(() => {});
    if (options.failing) throw { kind: "unavailable", message: "The engine doesn’t answer.", hint: "Start the machine, then try again." } satisfies t.HostFailure;
    return drawn(answer());
  };
  const list = <T>(items: unknown): T[] => (options.empty ? [] : (structuredClone(items) as T[]));
  const emitMachine = (): void => machineListeners.forEach((listener) => listener(machine));
  const underWay = structuredClone(samples.transfer) as t.Transfer;
  /** It stays half done until a test says more. */
  const transfer = (name: string) => (image: string, listener: (transfer: t.Transfer) => void): Unsubscribe => {
    calls.push({ name, args: [image] });
    transferListeners.add(listener);
    if (options.failing) listener({ blobs: [], finished: "", error: "The engine doesn’t answer.", hint: "Start the machine, then try again." });
    else if (!options.pending) listener(underWay);
    return () => {
      if (transferListeners.delete(listener)) calls.push({ name: `${name} cancelled`, args: [image] });
    };
  };
  const none = (): Unsubscribe => () => {};
  const find = (ref: string) => {
    const found = builds.get(ref);
    if (!found) throw { kind: "user", message: "There is no such build.", hint: "It may have been deleted." } satisfies t.HostFailure;
    return found;
  };

  return {
    calls,
    emitTransfer: (transfer) => {
      const listeners = [...transferListeners];
      if (transfer.finished || transfer.error) transferListeners.clear();
      listeners.forEach((listener) => listener({ ...underWay, ...transfer }));
    },
    emitBuilds: (change) => buildListeners.forEach((listener) => listener(change)),
    now: () => now,
    watchMachine(listener) {
      machineListeners.add(listener);
      listener(drawn(machine));
      return () => machineListeners.delete(listener);
    },
    watchUse: (listener) => {
      calls.push({ name: "watchUse", args: [] });
      if (!options.pending && !options.failing) listener({ busyCpus: 1.36, cpus: machine.cpus, memoryUsed: 1_540_000_000, memoryTotal: machine.memoryBytes, disk: machine.disk });
      return () => void calls.push({ name: "unwatchUse", args: [] });
    },
    startMachine: () => call("startMachine", [], () => { machine = { ...machine, state: "running" }; emitMachine(); }),
    stopMachine: (force) => call("stopMachine", [force], () => { machine = { ...machine, state: "stopped", disk: null }; emitMachine(); }),
    restartMachine: () => call("restartMachine", [], () => {}),
    machineSettings: () => call("machineSettings", [], () => structuredClone(samples.machineSettings) as t.MachineSettings),
    saveMachineSettings: (s) => call("saveMachineSettings", [s], () => ["cpus", "memory"]),
    console: () => call("console", [], () => samples.console.join("\n")),
    resetMachine: (confirm) => call("resetMachine", [confirm], () => {}),
    watchBuilds(listener) {
      buildListeners.add(listener);
      if (!options.pending) listener(drawn({ reset: true, changed: [...builds.values()].map((b) => b.summary), removed: [] as string[] }));
      return () => buildListeners.delete(listener);
    },
    watchBuild(ref, logs, listener) {
      const { recording, shift, live } = find(ref);
      const updates = recording.stream.slice(0, live ?? undefined).map((u) => update(logs ? u : { ...u, logs: [] }, shift));
      updates.forEach(listener);
      if (live === null) listener({ vertices: [], progress: [], logs: [], warnings: [], end: true });
      else if (options.flood && logs) return flood(updates.at(-1)?.vertices[0]?.digest ?? updates[0]?.vertices[0]?.digest ?? "", options.flood, listener);
      return () => {};
    },
    buildDetail: (ref) => call("buildDetail", [ref], () => {
      const found = find(ref);
      return { ...detail(found.recording, sizes(found.recording)), summary: found.summary };
    }),
    explainBuild: (ref) => call("explainBuild", [ref], () => {
      const found = find(ref);
      const step = (part: string) => found.recording.stream.flatMap((u) => u.vertexes ?? []).find((v) => v.name.includes(part))?.digest ?? "";
      return found.recording.name === "webshop-changed" ? samples.explanations.map((e) => ({ ...e, vertex: step(e.vertex) })) as t.Explanation[] : [];
    }),
    cancelBuild: (ref) => call("cancelBuild", [ref], () => {}),
    pinBuild: (ref, pinned) => call("pinBuild", [ref, pinned], () => {
      const found = find(ref);
      found.summary = { ...found.summary, pinned };
      buildListeners.forEach((l) => l({ reset: false, changed: [found.summary], removed: [] }));
    }),
    deleteBuilds: (refs) => call("deleteBuilds", [refs], () => {
      refs.forEach((ref) => builds.delete(ref));
      buildListeners.forEach((l) => l({ reset: false, changed: [], removed: refs }));
    }),
    importBuild: (path) => call("importBuild", [path], () => {
      const from = [...builds.values()][0]!;
      const imported = { ...from.summary, ref: "imported0000000000000000x", imported: true };
      builds.set(imported.ref, { ...from, summary: imported });
      buildListeners.forEach((l) => l({ reset: false, changed: [imported], removed: [] }));
      return imported.ref;
    }),
    exportBuild: (ref, path) => call("exportBuild", [ref, path], () => {}),
    rebuild: (ref) => call("rebuild", [ref], () => {
      const found = find(ref);
      const again = request({ ...detail(found.recording), summary: found.summary });
      const missing = again.secrets.map((s) => `Where the secret “${s.id}” came from isn’t recorded.`);
      return { request: again, missing: again.context ? missing : ["Which folder it was of isn’t recorded."], different: [] };
    }),
    inspectFolder: (path, dockerfile) => call("inspectFolder", [path, dockerfile], () => ({ ...(structuredClone(samples.folder) as t.FolderInfo), path })),
    startBuild: (request) => call("startBuild", [request], () => [...builds.keys()].at(-1) ?? ""),
    askDockerfile: (request) => call("askDockerfile", [request], () => (structuredClone(samples.answers) as unknown as Record<string, t.DockerfileAnswers>)[request.dockerfile] ?? (structuredClone(samples.answers.Dockerfile) as unknown as t.DockerfileAnswers)),
    watchFolder: (request, listener) => {
      calls.push({ name: "watchFolder", args: [request] });
      listener({ phase: "waiting", reference: [...builds.keys()].at(-1) ?? "", builds: 2, changed: ["src/checkout.js"], error: "" });
      return () => void calls.push({ name: "unwatchFolder", args: [] });
    },
    keptSecrets: () => call("keptSecrets", [], () => list<string>(["npm-token"])),
    keepSecret: (name, value) => call("keepSecret", [name, value], () => {}),
    forgetSecret: (name) => call("forgetSecret", [name], () => {}),
    images: () => call("images", [], () => list<t.Image>(samples.images)),
    inspectImage: (name) => call("inspectImage", [name], () => {
      const image = (samples.images as t.Image[]).find((i) => i.names.includes(name) || i.id === name);
      const whole = structuredClone({ ...samples.imageDetail, ...samples.imageUses[image?.buildRef === "" ? "pulled" : "built"] }) as unknown as t.ImageDetail;
      if (image?.buildRef === "") whole.layers.length = 1;
      return { ...whole, ...(image ? { image } : {}) };
    }),
    pullImage: transfer("pullImage"),
    pushImage: transfer("pushImage"),
    tagImage: (source, target) => call("tagImage", [source, target], () => {}),
    removeImages: (names) => call("removeImages", [names], () => 42_600_000),
    saveImages: (names, path) => call("saveImages", [names, path], () => 125_600_000),
    loadImages: (path) => call("loadImages", [path], () => ["shop/loaded:1"]),
    cacheRecords: () => call("cacheRecords", [], () => list<t.CacheRecord>(records(now))),
    planCleanup: (keep) => call("planCleanup", [keep], () => plan(records(now), keep)),
    runCleanup: (id) => call("runCleanup", [id], () => ({ ...(samples.runs[0] as t.GcRun), id })),
    gcRuns: () => call("gcRuns", [], () => list<t.GcRun>(samples.runs)),
    gcPolicies: () => call("gcPolicies", [], () => structuredClone(samples.policies) as t.Policy[]),
    saveGcPolicies: (policies) => call("saveGcPolicies", [policies], () => []),
    retention: () => call("retention", [], () => ({ maxAgeDays: 30, maxEntries: 0, maxBytes: 0 })),
    saveRetention: (retention) => call("saveRetention", [retention], () => ["buildkitd-toml"]),
    cacheMounts: () => call("cacheMounts", [], () => list<t.CacheMount>(samples.mounts)),
    browseMount: (id, path) => call("browseMount", [id, path], () => structuredClone(samples.mountFiles) as t.FileEntry[]),
    clearMount: (id) => call("clearMount", [id], () => 3_145_728),
    exportMount: (id, path) => call("exportMount", [id, path], () => 3_145_728),
    importMount: (id, path) => call("importMount", [id, path], () => {}),
    planPolicies: (policies) => call("planPolicies", [policies], () => plan(records(now), 0)),
    tools: () => call("tools", [], () => ({ ...tools })),
    installTools: (current) => call("installTools", [current], () => ({ ...(tools = { ...tools, installed: true, current }) })),
    removeTools: () => call("removeTools", [], () => ({ ...(tools = { ...tools, installed: false, current: false }) })),
    builders: () => call("builders", [], () => structuredClone(samples.builders) as t.Builder[]),
    addBuilder: (builder) => call("addBuilder", [builder], () => {}),
    removeBuilder: (name) => call("removeBuilder", [name], () => {}),
    useBuilder: (name) => call("useBuilder", [name], () => {}),
    testBuilder: (builder) => call("testBuilder", [builder], () => structuredClone(builder.caFile ? samples.builderTestTls : samples.builderTest) as t.TestStep[]),
    registries: () => call("registries", [], () => list<t.Registry>(samples.registries)),
    saveRegistry: (registry) => call("saveRegistry", [registry], () => ["buildkitd-toml"]),
    forgetRegistry: (host) => call("forgetRegistry", [host], () => ["buildkitd-toml"]),
    testRegistry: (host) => call("testRegistry", [host], () => structuredClone(samples.registryTest) as t.TestStep[]),
    loginRegistry: (host, username) => call("loginRegistry", [host, username], () => {}),
    logoutRegistry: (host) => call("logoutRegistry", [host], () => {}),
    diagnose: () => call("diagnose", [], () => structuredClone(samples.checks) as t.Check[]),
    supportParts: () => call("supportParts", [], () => structuredClone(samples.support) as t.BundlePart[]),
    supportPath: () => call("supportPath", [], () => "/home/ada/kiln-support.tar.gz"),
    saveSupport: (path, parts) => call("saveSupport", [path, parts], () => {}),
    watchSettings: (listener) => {
      listener({ ...settings });
      return () => {};
    },
    saveSettings: (s) => call("saveSettings", [s], () => void Object.assign(settings, s)),
    pick: (ask) => call("pick", [ask], () => (ask.what === "folder" ? "/home/ada/src/webshop" : `/home/ada/chosen.${ask.kinds[0] ?? "txt"}`)),
    onTrouble: none,
    onFolderDropped: none,
    onOpen: none,
  };
}

/** Lines as a compiler prints them, in the bites that the app's channel brings. */
function flood(vertex: string, { perSecond, seconds }: NonNullable<MockOptions["flood"]>, listener: (update: t.BuildUpdate) => void): Unsubscribe {
  const begun = performance.now();
  let sent = 0;
  const timer = setInterval(() => {
    const due = Math.min(Math.floor(((performance.now() - begun) * perSecond) / 1000), perSecond * seconds);
    let text = "";
    while (sent < due) text += `\u001b[32m[${++sent}]\u001b[0m compiling src/module-${sent % 997}.c into build/module-${sent % 997}.o\n`;
    if (text) listener({ vertices: [], progress: [], logs: [{ vertex, stream: 1, text, time: Date.now() }], warnings: [], end: false });
    if (sent >= perSecond * seconds) clearInterval(timer);
  }, 50);
  return () => clearInterval(timer);
}

/** The recorded step that made a record: buildx's `du` doesn't print it, but when it was made, and what ran. */
function madeBy(description: string, created: number): Pick<t.CacheRecord, "project" | "build" | "step" | "rebuildMilliseconds"> {
  const recording = recordings.find((r) => created >= Date.parse(r.record.StartedAt) - 1000 && created <= Date.parse(r.record.CompletedAt) + 1000);
  const command = /^mount \/ from exec \/bin\/sh -c (.+)$/s.exec(description)?.[1];
  const vertex = recording?.stream.flatMap((u) => u.vertexes ?? []).find((v) => v.completed && (v.name === description || (command && v.name.endsWith(`RUN ${command}`))));
  const took = vertex?.completed && vertex.started ? Date.parse(vertex.completed) - Date.parse(vertex.started) : 0;
  const project = description.startsWith("cached mount") ? "" : (recording?.record.Name ?? "");
  return { project, build: recording?.record.Ref ?? "", step: vertex?.name ?? "", rebuildMilliseconds: took };
}

function records(now: number): t.CacheRecord[] {
  const unit: Record<string, number> = { second: 1e3, minute: 6e4, hour: 36e5 };
  return (cacheFile as { ID: string; Description: string; Type: string; Size: string; CreatedAt: string; LastUsedAt?: string; UsageCount: number; Shared: boolean; Mutable: boolean; Reclaimable: boolean; Parents: string[] | null }[])
    .filter((r) => typeof r === "object")
    .map((r) => {
      const used = /(\d+) (second|minute|hour)/.exec(r.LastUsedAt ?? "");
      const created = Date.parse(r.CreatedAt.replace(" +0000 UTC", "Z").replace(" ", "T"));
      return {
        id: r.ID, description: r.Description, type: r.Type, bytes: parseSize(r.Size), created, pinned: false, ...madeBy(r.Description, created),
        lastUsed: now - 4 * 60_000 - (used ? Number(used[1]) * (unit[used[2] ?? ""] ?? 1) : 0),
        usageCount: r.UsageCount, inUse: !r.Reclaimable, shared: r.Shared, mutable: r.Mutable, parents: r.Parents ?? [],
      };
    });
}

function plan(all: t.CacheRecord[], keep: number): t.Plan {
  const before = all.reduce((sum, r) => sum + r.bytes, 0);
  let left = before;
  const removals: t.PlannedRemoval[] = [];
  for (const record of [...all].sort((a, b) => (a.lastUsed ?? 0) - (b.lastUsed ?? 0))) {
    if (left <= keep) break;
    if (record.inUse) continue;
    left -= record.bytes;
    removals.push({
      id: record.id, description: record.description, bytes: record.bytes, rebuildMilliseconds: record.type === "regular" ? 420 : 0,
      reason: "unused for the longest time", recordType: record.type, lastUsed: record.lastUsed,
    });
  }
  return { id: "plan-1", removals, bytes: before - left, rebuildMilliseconds: removals.reduce((s, r) => s + r.rebuildMilliseconds, 0), bytesBefore: before };
}
