// What happens in a build, and why.

import type { SourceFile } from "./builds";

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
