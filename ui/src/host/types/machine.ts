// The machine, as the status bar and its screen show it.

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

/** Whether docker buildx knows Kiln as a builder. */
export interface ToolState {
  installed: boolean;
  /** It knows one of that name at another address. */
  elsewhere: boolean;
  current: boolean;
  address: string;
}
