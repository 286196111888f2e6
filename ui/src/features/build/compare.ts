// What differs between two builds. Steps are matched by what they do, since digests differ as soon as an
// input does.
import type { BuildDetail } from "../../host/types";
import { material } from "../../lib/format";
import { state, worked, type Build, type Step, type StepState } from "../../lib/steps";

export interface Side { state: StepState; ms: number }
export interface StepRow { key: string; stage: string; title: string; left: Side | null; right: Side | null; differs: boolean }

export function compareSteps(left: Build, right: Build): StepRow[] {
  const sides = (build: Build): Map<string, { step: Step; side: Side }> => {
    const map = new Map<string, { step: Step; side: Side }>();
    for (const { steps } of build.groups()) {
      for (const step of steps) {
        const base = `${step.stage}\n${step.platform}\n${step.title.replace(/@sha256:[0-9a-f]+/g, "")}`;
        let key = base;
        for (let n = 2; map.has(key); n++) key = `${base}\n${n}`;
        map.set(key, { step, side: { state: state(step, build.ended), ms: step.cached ? 0 : worked(step, 0, true) } });
      }
    }
    return map;
  };
  const a = sides(left);
  const b = sides(right);
  return [...new Set([...b.keys(), ...a.keys()])].map((key) => {
    const l = a.get(key);
    const r = b.get(key);
    const step = (r ?? l)?.step;
    const differs = !l || !r || l.side.state !== r.side.state || Math.abs(l.side.ms - r.side.ms) > Math.max(50, 0.2 * l.side.ms);
    return { key, stage: step?.stage ?? "", title: step?.title ?? "", left: l?.side ?? null, right: r?.side ?? null, differs };
  });
}

export function compareInputs(left: BuildDetail, right: BuildDetail): { name: string; left: string; right: string }[] {
  const facts = (d: BuildDetail): Map<string, string> => {
    const map = new Map([
      ["Context", d.summary.context], ["Dockerfile", d.summary.dockerfile], ["Target", d.summary.target],
      ["Platforms", d.summary.platforms.join(", ")], ["Names", d.summary.tags.join(", ")],
    ]);
    for (const { name, value } of d.args) map.set(`Argument ${name}`, value);
    for (const { name, value } of d.labels) map.set(`Label ${name}`, value);
    for (const { uri, digest } of d.materials) map.set(material(uri), digest);
    if (d.source) map.set("Dockerfile’s text", `${d.source.text.split("\n").length - 1} lines, ${checksum(d.source.text)}`);
    return map;
  };
  const a = facts(left);
  const b = facts(right);
  return [...new Set([...a.keys(), ...b.keys()])]
    .map((name) => ({ name, left: a.get(name) ?? "", right: b.get(name) ?? "" }))
    .filter((row) => row.left !== row.right);
}

/** Tells two texts apart; nothing more is asked of it. */
function checksum(text: string): string {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, "0");
}
