// Filters of the build list. They read as a sentence: "failed builds of api since yesterday".
import type { BuildStatus, BuildSummary } from "../host/types";

export interface BuildFilter {
  text: string;
  status: BuildStatus | "";
  project: string;
  client: string;
}

export const everything: BuildFilter = { text: "", status: "", project: "", client: "" };

export function matches(build: BuildSummary, filter: BuildFilter): boolean {
  if (filter.status && build.status !== filter.status) return false;
  if (filter.project && build.project !== filter.project) return false;
  if (filter.client && build.client !== filter.client) return false;
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return true;
  const all = [build.name, build.ref, build.context, build.dockerfile, build.target, build.client, build.error, ...build.tags, ...build.platforms]
    .join("\n").toLowerCase();
  return words.every((word) => all.includes(word));
}
