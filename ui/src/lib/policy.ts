// A policy of garbage collection as a sentence.
import type { Policy } from "../host/types";
import { size } from "./format";

const KINDS: Record<string, string> = {
  "source.local": "build contexts", "exec.cachemount": "cache mounts", "source.git.checkout": "git checkouts",
  regular: "layers", internal: "internal records", frontend: "frontends",
};

export function sentence(policy: Policy): string {
  const types = policy.filters.flatMap((filter) => filter.split(",")).map((f) => /^type==?(.+)$/.exec(f)?.[1] ?? "").filter(Boolean);
  const what = types.length ? list(types.map((type) => KINDS[type] ?? type)) : policy.all ? "Everything, also internal records," : "Everything";
  const unused = policy.keepDurationSeconds > 0 ? ` unused for ${age(policy.keepDurationSeconds)}` : "";
  const until: string[] = [];
  if (policy.maxUsedSpace > 0) until.push(`the cache takes at most ${size(policy.maxUsedSpace)}`);
  if (policy.minFreeSpace > 0) until.push(`${size(policy.minFreeSpace)} of the disk are free`);
  const floor = policy.reservedSpace > 0 ? `; ${size(policy.reservedSpace)} always stay` : "";
  const goal = until.length ? ` until ${until.join(" and ")}` : "";
  return `${capital(what)}${unused} may go${goal}${floor}.`;
}

function list(words: string[]): string {
  return words.length < 2 ? (words[0] ?? "") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

function age(seconds: number): string {
  const units: [number, string][] = [[86_400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
  for (const [unit, name] of units) {
    if (seconds >= unit) {
      const n = Math.round(seconds / unit);
      return `${n} ${name}${n === 1 ? "" : "s"}`;
    }
  }
  return "a moment";
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
