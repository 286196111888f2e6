// Reads the recordings of `testdata/`: what a stock buildx printed while it drove a real engine, in the JSON
// of BuildKit's client. Used by the mock host alone.
import type { BuildDetail, BuildResult, BuildSummary, BuildUpdate, SourceFile, Warning } from "./types";

interface GoVertex { digest: string; inputs?: string[]; name: string; started?: string; completed?: string; cached?: boolean; error?: string }
interface GoStatus { id: string; vertex: string; current: number; total?: number; started?: string; completed?: string }
interface GoLog { vertex: string; stream: number; data: string; timestamp: string }
interface GoWarning {
  vertex: string; level: number; short: string; detail?: string[]; url?: string;
  sourceInfo?: { filename: string; data: string }; range?: { start: { line: number }; end: { line: number } }[];
}
interface GoUpdate { vertexes?: GoVertex[]; statuses?: GoStatus[]; logs?: GoLog[]; warnings?: GoWarning[] }

export interface Recording {
  name: string;
  project: string;
  args: string[];
  exit: number;
  dockerfile: string;
  stream: GoUpdate[];
  record: {
    Name: string; Ref: string; Context: string; Dockerfile: string; StartedAt: string; CompletedAt: string; Status: string;
    NumCompletedSteps: number; NumTotalSteps: number; NumCachedSteps: number;
    BuildArgs?: { Name: string; Value: string }[];
    Materials?: { URI: string; Digests: string[] }[];
    Attachments?: { Digest: string; Type: string; Platform?: string }[];
    Error?: { Message: string; Name?: string; Sources?: string };
  };
}

const time = (text: string | undefined): number | null => (text ? Date.parse(text) : null);
const decode = (data: string): string => new TextDecoder().decode(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)));

export function update(go: GoUpdate, shift = 0): BuildUpdate {
  const at = (text: string | undefined): number | null => {
    const ms = time(text);
    return ms === null ? null : ms + shift;
  };
  return {
    vertices: (go.vertexes ?? []).map((v) => ({
      digest: v.digest, inputs: v.inputs ?? [], name: v.name, started: at(v.started), completed: at(v.completed),
      cached: v.cached ?? false, error: v.error ?? "",
    })),
    progress: (go.statuses ?? []).map((s) => ({
      vertex: s.vertex, id: s.id, current: s.current, total: s.total ?? 0, started: at(s.started), completed: at(s.completed),
    })),
    logs: (go.logs ?? []).map((l) => ({ vertex: l.vertex, stream: l.stream, text: decode(l.data), time: at(l.timestamp) ?? 0 })),
    warnings: (go.warnings ?? []).map(
      (w): Warning => ({
        vertex: w.vertex, level: w.level, short: decode(w.short), detail: (w.detail ?? []).map(decode), url: w.url ?? "",
        lines: (w.range ?? []).map((r) => [r.start.line, r.end.line]),
        source: w.sourceInfo ? { filename: w.sourceInfo.filename, text: decode(w.sourceInfo.data) } : null,
      }),
    ),
    end: false,
  };
}

/** When the first thing of an update happened. */
export function moment(u: BuildUpdate): number {
  const times = [
    ...u.vertices.flatMap((v) => [v.completed ?? v.started]), ...u.progress.flatMap((p) => [p.completed ?? p.started]), ...u.logs.map((l) => l.time),
  ].filter((t): t is number => t !== null && t > 0);
  return times.length ? Math.max(...times) : 0;
}

const tags = (args: string[]): string[] =>
  args.flatMap((arg) => /"name=([^"]+)"/.exec(arg)?.[1]?.split(",") ?? []);

export function summary(recording: Recording): BuildSummary {
  const { record } = recording;
  return {
    ref: record.Ref, name: record.Name, project: record.Context,
    status: record.Status === "completed" ? "done" : record.Status === "canceled" ? "cancelled" : "failed",
    created: time(record.StartedAt) ?? 0, completed: time(record.CompletedAt),
    dockerfile: record.Dockerfile, context: record.Context, target: "", platforms: ["linux/amd64"], tags: tags(recording.args),
    outputs: recording.args.flatMap((arg) => /^type=(\w+)/.exec(arg)?.[1] ?? []),
    totalSteps: record.NumTotalSteps, cachedSteps: record.NumCachedSteps, completedSteps: record.NumCompletedSteps,
    warnings: recording.stream.reduce((n, u) => n + (u.warnings?.length ?? 0), 0), pinned: false, imported: false, client: "buildx", error: record.Error?.Message ?? "",
  };
}

/** `sizes` are what buildx can't say: of the image, and of the one from the build before. */
export function detail(recording: Recording, sizes: Pick<BuildResult, "bytes" | "previous"> = { bytes: null, previous: null }): BuildDetail {
  const { bytes, previous } = sizes;
  const { record } = recording;
  const source: SourceFile = { filename: record.Dockerfile, text: recording.dockerfile };
  const excerpt = record.Error?.Sources ? decode(record.Error.Sources) : "";
  const marked = [...excerpt.matchAll(/^\s*(\d+) \| >>>/gm)].map((m) => Number(m[1]));
  const failed = recording.stream.flatMap((u) => u.vertexes ?? []).find((v) => v.error);
  const attachments = record.Attachments ?? [];
  const image = attachments.find((a) => a.Type.includes("image.index") || a.Type.includes("image.manifest"));
  return {
    summary: summary(recording),
    args: (record.BuildArgs ?? []).map((a) => ({ name: a.Name, value: a.Value })),
    labels: [], contexts: [{ name: "context", value: record.Context }, { name: "dockerfile", value: record.Context }],
    secrets: recording.args.flatMap((arg) => /^id=([^,]+)/.exec(arg)?.[1] ?? []), ssh: [], options: [],
    materials: (record.Materials ?? []).map((m) => ({ uri: m.URI, digest: m.Digests[0] ?? "" })),
    results: image
      ? [{
          platform: "linux/amd64", digest: image.Digest, mediaType: image.Type, bytes, previous,
          attestations: attachments.filter((a) => a.Type.startsWith("https://")).map((a) => ({ type: a.Type, digest: a.Digest, bytes: 0 })),
        }]
      : [],
    response: [],
    source,
    failure: record.Error
      ? {
          message: record.Error.Message, step: record.Error.Name ?? "", vertex: failed?.digest ?? "",
          exitCode: Number(/exit code: (\d+)/.exec(record.Error.Message)?.[1]) || null,
          lines: marked.length ? [[Math.min(...marked), Math.max(...marked)]] : [], source,
        }
      : null,
  };
}
