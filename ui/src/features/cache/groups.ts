// Records by what they are.
import type { CacheRecord } from "../../host/types";

export const KINDS: Record<string, string> = {
  regular: "Layers", "source.local": "Build contexts", "source.git.checkout": "Git checkouts", "exec.cachemount": "Cache mounts", internal: "Internal", frontend: "Frontends",
};

const SHADES: Record<string, string> = {
  regular: "var(--cached-fill)", "source.local": "var(--accent)", "source.git.checkout": "var(--accent)", "exec.cachemount": "var(--done)", internal: "var(--text-3)", frontend: "var(--warning)",
};

export const shade = (type: string): string => SHADES[type] ?? "var(--text-3)";

export function groups(records: CacheRecord[]): { type: string; bytes: number; records: CacheRecord[] }[] {
  const map = new Map<string, CacheRecord[]>();
  for (const record of records) map.set(record.type, [...(map.get(record.type) ?? []), record]);
  return [...map].map(([type, list]) => ({ type, records: list, bytes: list.reduce((sum, r) => sum + r.bytes, 0) }));
}
