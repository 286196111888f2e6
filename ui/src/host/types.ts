// What the app shows, as it crosses from the host to the window. The Rust side (`src-tauri/controller`)
// makes the same shapes. Times are milliseconds since 1970, sizes are bytes.

export type MachineState = "stopped" | "starting" | "running" | "stopping" | "failed" | "unreachable";

export interface MachineStatus {
  state: MachineState;
  /** Of a failure: what happened and what to do next. While starting: what it is at. */
  reason: string;
  driver: string;
  accelerator: string;
  acceleratorReason: string;
  since: number | null;
  cpus: number;
  memoryBytes: number;
  disk: DiskUse | null;
  sockets: { name: string; path: string; hint: string }[];
  runningBuilds: number;
  connections: number;
  version: string;
  engineVersion: string;
  notices: string[];
  bootMilliseconds: number;
  pid: number;
  idleStopInSeconds: number;
}

/** What the machine uses right now. */
export interface MachineUse {
  /** Processors at work: 1.5 is one and half of another. */
  busyCpus: number;
  cpus: number;
  /** Of a native engine: of it and its steps. */
  memoryUsed: number;
  memoryTotal: number;
  disk: DiskUse | null;
}

export interface DiskUse {
  total: number;
  used: number;
  reclaimable: number;
  hostAllocated: number;
}

export interface MachineSettings {
  driver: string;
  cpus: number;
  memoryBytes: number;
  diskBytes: number;
  /** 0: the default; negative: never. */
  idleStopSeconds: number;
  accelerator: string;
  proxyHttp: string;
  proxyHttps: string;
  noProxy: string;
  caFiles: string[];
  allow: { name: string; port: number }[];
  buildkitdToml: string;
  /** What this computer has, so that the form can mark what would starve it. */
  hostCpus: number;
  hostMemoryBytes: number;
  /** The most that the machine's disk could take: what it holds and what is free. */
  hostDiskBytes: number;
  /** What a setting of 0 means here. */
  defaultCpus: number;
  defaultMemoryBytes: number;
  defaultDiskBytes: number;
  /** How far the disk's file may grow now; it never gets less. */
  diskLength: number;
}

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

export interface BuildResult {
  platform: string;
  digest: string;
  mediaType: string;
  bytes: number;
  attestations: { type: string; digest: string; bytes: number }[];
}

export interface Vertex {
  digest: string;
  inputs: string[];
  name: string;
  started: number | null;
  completed: number | null;
  cached: boolean;
  error: string;
}

export interface Progress {
  vertex: string;
  id: string;
  current: number;
  total: number;
  started: number | null;
  completed: number | null;
}

export interface LogChunk {
  vertex: string;
  stream: number;
  text: string;
  time: number;
}

export interface Warning {
  vertex: string;
  level: number;
  short: string;
  detail: string[];
  url: string;
  lines: [number, number][];
  source: SourceFile | null;
}

export interface BuildUpdate {
  vertices: Vertex[];
  progress: Progress[];
  logs: LogChunk[];
  warnings: Warning[];
  /** The stream is over. */
  end: boolean;
}

export type Cause =
  | "cached" | "first" | "instruction" | "argument" | "base" | "files" | "evicted" | "no-cache" | "parent" | "unknown";

export interface Explanation {
  vertex: string;
  cause: Cause;
  summary: string;
  differences: { kind: string; name: string; before: string; after: string }[];
}

export interface BuildRequest {
  context: string;
  dockerfile: string;
  target: string;
  args: NameValue[];
  labels: NameValue[];
  /** More contexts by name: images and addresses. */
  contexts: NameValue[];
  /** Their source is `file`, `env` or `keyring`; the value names a file, a variable or what the keyring keeps. */
  secrets: { id: string; source: string; value: string }[];
  ssh: string[];
  platforms: string[];
  tags: string[];
  noCache: boolean;
  pull: boolean;
  output: OutputChoice;
  /** A file or folder, for the outputs that write one. */
  destination: string;
  /** As buildx's `--cache-from` and `--cache-to` have them. */
  cacheFrom: string[];
  cacheTo: string[];
}

export type OutputChoice = "cache" | "store" | "push" | "docker" | "oci" | "local";

export interface FolderInfo {
  path: string;
  name: string;
  dockerfiles: DockerfileInfo[];
  ignoreFile: string;
}

export interface DockerfileInfo {
  path: string;
  source: string;
  stages: { name: string; base: string; line: number; uses: string[] }[];
  args: { name: string; value: string; line: number }[];
  secrets: string[];
  ssh: string[];
  /** Why the file can't be read or understood. */
  error: string;
}

export interface Target {
  name: string;
  default: boolean;
  description: string;
  base: string;
  platform: string;
  line: number;
}

export interface OutlineArg {
  name: string;
  value: string;
  description: string;
  line: number;
}

export interface Need {
  name: string;
  required: boolean;
  line: number;
}

export interface Finding {
  rule: string;
  title: string;
  detail: string;
  url: string;
  lines: [number, number][];
}

/** What the engine's frontend says of a Dockerfile. */
export interface DockerfileAnswers {
  source: string;
  targets: Target[];
  args: OutlineArg[];
  secrets: Need[];
  ssh: Need[];
  findings: Finding[];
  /** Why it can't be built; empty where it can. */
  error: string;
  errorLines: [number, number][];
}

export interface WatchState {
  phase: "waiting" | "settling" | "building" | "cancelling" | "ended";
  /** Of the last build that began. */
  reference: string;
  builds: number;
  /** The first paths that made the next build, or the last one. */
  changed: string[];
  error: string;
}

export interface Image {
  digest: string;
  id: string;
  names: string[];
  platforms: string[];
  created: number | null;
  bytes: number;
  sharedBytes: number;
  /** The build that made it, while history has it. */
  buildRef: string;
}

export interface ImageDetail {
  image: Image;
  layers: { digest: string; mediaType: string; bytes: number; command: string }[];
  history: { command: string; created: number | null; bytes: number; empty: boolean }[];
  attestations: { type: string; digest: string; platform: string }[];
  config: string;
  /** Builds that had it among their sources, the newest of `usedByTotal`. */
  usedBy: { buildRef: string; created: number | null }[];
  usedByTotal: number;
  /** Images with the same first layers. */
  related: RelatedImage[];
}

export interface RelatedImage {
  digest: string;
  names: string[];
  layers: number;
  /** Of the first layers, so many are the same. */
  sharedLayers: number;
}

/** A pull or push: under way, or at its end with a digest or an error. */
export interface Transfer {
  blobs: TransferBlob[];
  finished: string;
  error: string;
  hint: string;
}

export interface TransferBlob {
  digest: string;
  /** waiting, transferring, exists or done. */
  status: string;
  current: number;
  total: number;
  /** layer, config or manifest. */
  description: string;
}

export interface CacheRecord {
  id: string;
  description: string;
  type: string;
  /** Where the engine knows: whose build made it, that build, and what it calls the step. */
  project: string;
  build: string;
  step: string;
  /** How long that step took; 0 where it isn't known. */
  rebuildMilliseconds: number;
  bytes: number;
  created: number | null;
  lastUsed: number | null;
  usageCount: number;
  inUse: boolean;
  shared: boolean;
  mutable: boolean;
  pinned: boolean;
  parents: string[];
}

export interface Policy {
  all: boolean;
  filters: string[];
  keepDurationSeconds: number;
  reservedSpace: number;
  maxUsedSpace: number;
  minFreeSpace: number;
}

export interface PlannedRemoval {
  id: string;
  description: string;
  bytes: number;
  rebuildMilliseconds: number;
  reason: string;
  recordType: string;
  lastUsed: number | null;
}

export interface Plan {
  id: string;
  removals: PlannedRemoval[];
  bytes: number;
  rebuildMilliseconds: number;
  bytesBefore: number;
}

export interface GcRun {
  id: string;
  trigger: string;
  started: number;
  finished: number | null;
  records: number;
  bytes: number;
  /** What this computer has more for it, where that was measured. */
  hostBytes: number | null;
}

export interface CacheMount {
  recordId: string;
  mountId: string;
  sharing: string;
  bytes: number;
  created: number | null;
  lastUsed: number | null;
  lastBuildRef: string;
  inUse: boolean;
}

export interface FileEntry {
  name: string;
  kind: string;
  bytes: number;
  modified: number | null;
  linkTarget: string;
}

export interface Builder {
  name: string;
  kind: "machine" | "unix" | "tcp" | "docker";
  address: string;
  current: boolean;
  caFile: string;
  certFile: string;
  keyFile: string;
  serverName: string;
}

export interface BuilderAddress {
  name: string;
  address: string;
  /** PEM files; without a CA the connection is without TLS. */
  caFile: string;
  certFile: string;
  keyFile: string;
  serverName: string;
}

export interface TestStep {
  title: string;
  ok: boolean;
  detail: string;
  milliseconds: number;
}

export interface Registry {
  host: string;
  /** Where its login is kept: a file or a helper's name. Empty: no login. */
  login: string;
  mirrors: string[];
  /** Spoken to without TLS. */
  http: boolean;
  /** Its certificate isn't checked. */
  insecure: boolean;
  caFiles: string[];
  /** Whether the machine is told anything of it. */
  configured: boolean;
}

/** How long records of builds are kept; 0 is the engine's own measure. */
export interface Retention {
  maxAgeDays: number;
  maxEntries: number;
  maxBytes: number;
}

export type CheckOutcome = "ok" | "warning" | "failed" | "skipped";

export interface Check {
  id: string;
  title: string;
  outcome: CheckOutcome;
  detail: string;
  fix: string;
}

/** Whether docker buildx knows Kiln as a builder. */
export interface ToolState {
  installed: boolean;
  /** It knows one of that name at another address. */
  elsewhere: boolean;
  current: boolean;
  address: string;
}

/** What a build of the past began with. */
export interface Rebuild {
  request: BuildRequest;
  /** What a start needs and nobody knows any more, in words. */
  missing: string[];
  /** What won't be as it was. */
  different: string[];
}

/** What the desktop's dialog is asked for. */
export interface Pick {
  what: "folder" | "file" | "save";
  title: string;
  /** Where it begins. */
  path: string;
  /** Endings of the files that are meant, without a dot. */
  kinds: string[];
}

export interface BundlePart {
  path: string;
  what: string;
  text: string;
}

export interface AppSettings {
  theme: "system" | "light" | "dark";
  startAtLogin: boolean;
  closeToTray: boolean;
  notifyFinished: "never" | "failed" | "all";
  mutedChecks: string[];
  recentFolders: string[];
  quickBuilds: QuickBuild[];
  /** Name of the builder in use; empty: the machine. Builders has a screen of its own. */
  builder: string;
}

/** A build that is kept for the tray. */
export interface QuickBuild {
  name: string;
  request: BuildRequest;
}

/** Why a call failed: what kind of thing to do about it, what happened, what to do next. */
export interface HostFailure {
  kind: "unavailable" | "unsupported" | "user" | "internal";
  message: string;
  hint: string;
}
