// A build's steps, put together from its updates. Plain data and no components: the same reducer serves the
// list, the timeline, the error and the comparison.
import type { BuildUpdate, Progress, Vertex, Warning } from "../host/types";
import { Log } from "./log";

export type StepState = "waiting" | "running" | "done" | "cached" | "failed" | "cancelled";

export interface Interval {
  start: number;
  /** null while it runs. */
  end: number | null;
}

export interface Step {
  digest: string;
  /** As the engine calls it. */
  name: string;
  /** Without stage and counter. */
  title: string;
  stage: string;
  platform: string;
  internal: boolean;
  inputs: string[];
  /** A vertex can work several times: when it resolves, and when it runs. */
  intervals: Interval[];
  cached: boolean;
  error: string;
  progress: Map<string, Progress>;
  order: number;
}

// A Dockerfile with one stage that has no name: `[2/3] COPY . .`
const NAME = /^\[(?:([a-z]\w*\/[\w/]+)(?:->\w+\/[\w/]+)? )?(?:\d+\/\d+|(.+?)(?: \d+\/\d+)?)\] (.*)$/s;

/** What the engine does with the result. */
const OUTPUT = /^(export|push|resolving provenance)/;

export function parseName(name: string): { title: string; stage: string; platform: string; internal: boolean } {
  const match = NAME.exec(name);
  if (!match) return { title: name, stage: "", platform: "", internal: OUTPUT.test(name) || /^(importing|resolving)/.test(name) };
  const [, platform = "", stage = "", title = ""] = match;
  if (stage === "internal") return { title, stage: "", platform, internal: true };
  if (stage === "auth") return { title: `log in to ${title}`, stage: "", platform, internal: true };
  return { title: title.replace(/\s+/g, " "), stage, platform, internal: false };
}

export class Build {
  readonly steps = new Map<string, Step>();
  readonly log: Log;
  readonly warnings: Warning[] = [];
  ended = false;
  /** Grows with every change; components read it to know that they are behind. */
  revision = 0;

  /** Of the log that many lines are kept, the last ones. */
  constructor(keep = 100_000) {
    this.log = new Log(keep);
  }

  apply(update: BuildUpdate): void {
    for (const vertex of update.vertices) this.vertex(vertex);
    for (const progress of update.progress) this.steps.get(progress.vertex)?.progress.set(progress.id, progress);
    for (const log of update.logs) this.log.take(log);
    for (const warning of update.warnings) {
      const known = this.warnings.some((w) => w.vertex === warning.vertex && w.short === warning.short);
      if (!known) this.warnings.push(warning);
    }
    if (update.end) this.finish();
    this.revision++;
  }

  private vertex(vertex: Vertex): void {
    let step = this.steps.get(vertex.digest);
    if (!step) {
      step = {
        digest: vertex.digest, name: vertex.name, ...parseName(vertex.name), inputs: vertex.inputs,
        intervals: [], cached: false, error: "", progress: new Map(), order: this.steps.size,
      };
      this.steps.set(vertex.digest, step);
    }
    if (vertex.inputs.length) step.inputs = vertex.inputs;
    step.cached ||= vertex.cached;
    step.error = vertex.error || step.error;
    if (vertex.started === null) return;
    const same = step.intervals.find((i) => i.start === vertex.started);
    if (same) same.end = vertex.completed ?? same.end;
    else step.intervals.push({ start: vertex.started, end: vertex.completed });
  }

  private finish(): void {
    this.log.finish();
    this.ended = true;
  }

  list(): Step[] {
    return [...this.steps.values()];
  }

  /** Stages in the order in which they first appear; what belongs to none comes first. */
  groups(): { stage: string; steps: Step[] }[] {
    const groups = new Map<string, Step[]>();
    for (const step of this.steps.values()) {
      const key = step.internal ? (OUTPUT.test(step.title) ? "Output" : "Preparation") : step.stage || "Steps";
      groups.set(key, [...(groups.get(key) ?? []), step]);
    }
    const output = groups.get("Output");
    groups.delete("Output");
    const all = [...groups].map(([stage, steps]) => ({ stage, steps }));
    for (const group of all) group.steps.sort((a, b) => firstStart(a) - firstStart(b) || counter(a) - counter(b) || a.order - b.order);
    const rank = (stage: string): number => (stage === "Preparation" ? 0 : 1);
    all.sort((a, b) => rank(a.stage) - rank(b.stage));
    return output ? [...all, { stage: "Output", steps: output }] : all;
  }

  counts(): Record<StepState, number> {
    const counts = { waiting: 0, running: 0, done: 0, cached: 0, failed: 0, cancelled: 0 };
    for (const step of this.steps.values()) counts[state(step, this.ended)]++;
    return counts;
  }

  /** From the first start to the last end. */
  range(now: number): { from: number; to: number } {
    let from = Infinity;
    let to = 0;
    for (const step of this.steps.values()) {
      for (const interval of step.intervals) {
        from = Math.min(from, interval.start);
        to = Math.max(to, interval.end ?? (this.ended ? interval.start : now));
      }
    }
    return from === Infinity ? { from: 0, to: 0 } : { from, to: Math.max(to, from) };
  }

  /** Sum of all work, and the time in which any was done. */
  totals(now: number): { accumulated: number; real: number } {
    const { from, to } = this.range(now);
    let accumulated = 0;
    for (const step of this.steps.values()) accumulated += worked(step, now, this.ended);
    return { accumulated, real: to - from };
  }

  running(): Step | undefined {
    let newest: Step | undefined;
    for (const step of this.steps.values()) {
      if (state(step, this.ended) !== "running") continue;
      if (!newest || firstStart(step) > firstStart(newest)) newest = step;
    }
    return newest;
  }
}

const counter = (step: Step): number => Number(/ (\d+)\/\d+\]/.exec(step.name)?.[1] ?? 0);
const firstStart = (step: Step): number => step.intervals[0]?.start ?? Infinity;

export function state(step: Step, ended: boolean): StepState {
  if (step.error) return /context canceled|cancelled/i.test(step.error) ? "cancelled" : "failed";
  const last = step.intervals.at(-1);
  if (!last) return ended ? "cancelled" : "waiting";
  if (last.end === null) return ended ? "cancelled" : "running";
  return step.cached ? "cached" : "done";
}

/** How long a step worked, without the time between. */
export function worked(step: Step, now: number, ended: boolean): number {
  return step.intervals.reduce((sum, i) => sum + ((i.end ?? (ended ? i.start : now)) - i.start), 0);
}
