// Builds that ran or run: the list, and one in full.

export type BuildStatus = "running" | "done" | "failed" | "cancelled";

export interface BuildSummary {
  ref: string;
  name: string;
  /** Key that groups a project's builds. */
  project: string;
  status: BuildStatus;
  created: number;
  completed: number | null;
  dockerfile: string;
  context: string;
  target: string;
  platforms: string[];
  tags: string[];
  outputs: string[];
  totalSteps: number;
  cachedSteps: number;
  completedSteps: number;
  warnings: number;
  pinned: boolean;
  error: string;
  /** Known from a file that was taken in, and not to the engine. */
  imported: boolean;
  /** The program that asked for it: `buildx`, `buildctl`, `kiln`. Empty where the engine doesn't know, or not yet. */
  client: string;
}

export interface BuildsChange {
  /** Replaces everything that was known. */
  reset: boolean;
  changed: BuildSummary[];
  removed: string[];
}

export interface NameValue {
  name: string;
  value: string;
}

export interface SourceFile {
  filename: string;
  text: string;
}

export interface Failure {
  message: string;
  step: string;
  vertex: string;
  exitCode: number | null;
  /** First and last line, from 1. */
  lines: [number, number][];
  source: SourceFile | null;
}

export interface BuildDetail {
  summary: BuildSummary;
  args: NameValue[];
  labels: NameValue[];
  contexts: NameValue[];
  secrets: string[];
  ssh: string[];
  options: NameValue[];
  materials: { uri: string; digest: string }[];
  results: BuildResult[];
  response: NameValue[];
  source: SourceFile | null;
  failure: Failure | null;
}

export interface PreviousSize {
  ref: string;
  bytes: number;
}

export interface BuildResult {
  platform: string;
  digest: string;
  mediaType: string;
  /** Of an image: its configs and layers, as a registry has them. Null where the engine can't say. */
  bytes: number | null;
  /** The same image from the build before, where both sizes are known. */
  previous: PreviousSize | null;
  attestations: { type: string; digest: string; bytes: number }[];
}
