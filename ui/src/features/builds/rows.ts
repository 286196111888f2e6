// The rows of the build list: headings and builds, flat, so that a windowed list can show thousands.
import type { BuildSummary } from "../../host/types";
import { day } from "../../lib/format";

export type Row = { kind: "heading"; key: string; title: string; count: number } | { kind: "build"; key: string; build: BuildSummary };
export type Grouping = "day" | "project";

export function rows(builds: BuildSummary[], grouping: Grouping, now: number): Row[] {
  const groups = new Map<string, BuildSummary[]>();
  for (const build of builds) {
    const key = grouping === "day" ? day(build.completed ?? build.created, now) : build.name;
    const group = groups.get(key);
    if (group) group.push(build);
    else groups.set(key, [build]);
  }
  return [...groups].flatMap(([title, group]): Row[] => [
    { kind: "heading", key: `h:${title}`, title, count: group.length },
    ...group.map((build): Row => ({ kind: "build", key: build.ref, build })),
  ]);
}

/** Durations and failures of the builds of each project, oldest first. */
export function trends(builds: BuildSummary[]): Map<string, { durations: number[]; failed: boolean[] }> {
  const trends = new Map<string, { durations: number[]; failed: boolean[] }>();
  for (let i = builds.length - 1; i >= 0; i--) {
    const build = builds[i];
    if (!build || build.completed === null) continue;
    const trend = trends.get(build.project) ?? { durations: [], failed: [] };
    trend.durations.push(build.completed - build.created);
    trend.failed.push(build.status === "failed");
    if (trend.durations.length > 20) {
      trend.durations.shift();
      trend.failed.shift();
    }
    trends.set(build.project, trend);
  }
  return trends;
}
