// A build to start: the request, and what its form asks of the folder and the engine.

import type { NameValue } from "./builds";

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

/** What a build of the past began with. */
export interface Rebuild {
  request: BuildRequest;
  /** What a start needs and nobody knows any more, in words. */
  missing: string[];
  /** What won't be as it was. */
  different: string[];
}

/** A build that is kept for the tray. */
export interface QuickBuild {
  name: string;
  request: BuildRequest;
}

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
