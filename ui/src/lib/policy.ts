// A policy of garbage collection as a sentence.
import type { Policy } from "../host/types";
import { count, list, size } from "./format";

const KINDS: Record<string, string> = {
  "source.local": "build contexts", "exec.cachemount": "cache mounts", "source.git.checkout": "git checkouts",
  regular: /* @wc-include */ "layers", internal: "internal records", frontend: /* @wc-include */ "frontends",
};

export function sentence(policy: Policy): string {
  const types = policy.filters.flatMap((filter) => filter.split(",")).map((f) => /^type==?(.+)$/.exec(f)?.[1] ?? "").filter(Boolean);
  const what = types.length ? list(types.map((type) => KINDS[type] ?? type)) : policy.all ? "Everything, also internal records," : "Everything";
  const unused = policy.keepDurationSeconds > 0 ? ` unused for ${age(policy.keepDurationSeconds)}` : "";
  const until: string[] = [];
  if (policy.maxUsedSpace > 0) until.push(`the cache takes at most ${size(policy.maxUsedSpace)}`);
  if (policy.minFreeSpace > 0) until.push(`${size(policy.minFreeSpace)} of the disk are free`);
  const floor = policy.reservedSpace > 0 ? `; ${size(policy.reservedSpace)} always stay` : "";
  const goal = until.length ? ` until ${list(until)}` : "";
  return `${capital(what)}${unused} may go${goal}${floor}.`;
}

function age(seconds: number): string {
  if (seconds >= 86_400) return count(Math.round(seconds / 86_400), ["# day", "# days"]);
  if (seconds >= 3600) return count(Math.round(seconds / 3600), ["# hour", "# hours"]);
  if (seconds >= 60) return count(Math.round(seconds / 60), ["# minute", "# minutes"]);
  return seconds >= 1 ? count(Math.round(seconds), ["# second", "# seconds"]) : "a moment";
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
