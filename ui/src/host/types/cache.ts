// What the cache holds and how it is cleaned.

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
