// What the cache holds as a tree: project → stage, image or kind of source → step, mount or source. Records of a step that
// is known by nothing but its description are placed by that.
import type { CacheRecord } from "../../host/types";
import { shortImage } from "../../lib/format";
import { parseName } from "../../lib/steps";

export const KINDS: Record<string, string> = {
  regular: "Layers", "source.local": "Build contexts", "source.git.checkout": "Git checkouts", "exec.cachemount": "Cache mounts", internal: "Internal", frontend: "Frontends",
};

const SHADES: Record<string, string> = {
  regular: "var(--kind-layer)", "source.local": "var(--kind-source)", "source.git.checkout": "var(--kind-source)", "exec.cachemount": "var(--kind-mount)",
};

/** A record's colour, the same in the map and in what explains it. */
export const shade = (type: string): string => `color-mix(in oklab, ${SHADES[type] ?? "var(--kind-other)"} 62%, var(--bg))`;

/** A project, or a stage of one, with what all of its records come to. */
export interface Group {
  key: string;
  title: string;
  bytes: number;
  /** How long making all of it again would take. */
  rebuild: number;
  lastUsed: number | null;
  inUse: boolean;
  records: CacheRecord[];
}

/** Where a record belongs. */
export interface Place { project: string; stage: string; title: string }

const IMAGES = "Base images";
const NOBODY = "Without a project";

/** `nameOf` knows a build's project by its reference. */
export function place(record: CacheRecord, nameOf: (build: string) => string | undefined): Place {
  const { description, type } = record;
  const pulled = /^pulled from (.+)$/.exec(description)?.[1];
  if (pulled) {
    const image = shortImage(pulled.replace(/@sha256:[0-9a-f]+$/, ""));
    return { project: IMAGES, stage: image, title: image };
  }
  const project = record.project || nameOf(record.build) || NOBODY;
  if (type !== "regular") {
    const mount = /^cached mount (\S+) from /.exec(description)?.[1];
    const source = /^local source for (.+)$/.exec(description)?.[1];
    return { project, stage: KINDS[type] ?? type, title: mount ?? source ?? description };
  }
  const step = parseName(record.step || description);
  const command = /^mount \/ from exec (?:\/bin\/sh -c )?(.+)$/s.exec(step.title)?.[1];
  return { project, stage: step.stage || "Steps", title: command ? `RUN ${command}` : step.title };
}

/** The records by what `keyOf` says of them, the largest group first. */
export function groups(records: CacheRecord[], keyOf: (record: CacheRecord) => string): Group[] {
  const map = new Map<string, Group>();
  for (const record of records) {
    const key = keyOf(record);
    let group = map.get(key);
    if (!group) map.set(key, (group = { key, title: key, bytes: 0, rebuild: 0, lastUsed: null, inUse: false, records: [] }));
    group.records.push(record);
    group.bytes += record.bytes;
    group.rebuild += record.rebuildMilliseconds;
    if (record.lastUsed !== null) group.lastUsed = Math.max(group.lastUsed ?? 0, record.lastUsed);
    group.inUse ||= record.inUse;
  }
  return [...map.values()].sort((a, b) => b.bytes - a.bytes);
}
