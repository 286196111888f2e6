// Which stages a target needs.
import type { DockerfileInfo } from "../../host/types";

export function needed(stages: DockerfileInfo["stages"], target: string): Set<number> {
  const byName = (name: string, before: number): number => {
    for (let i = before - 1; i >= 0; i--) if (stages[i]?.name.toLowerCase() === name.toLowerCase()) return i;
    const index = Number(name);
    return Number.isInteger(index) && index < before && name !== "" ? index : -1;
  };
  const last = target ? byName(target, stages.length) : stages.length - 1;
  const used = new Set<number>();
  const queue = [last];
  for (let i = queue.pop(); i !== undefined; i = queue.pop()) {
    const stage = stages[i];
    if (!stage || used.has(i)) continue;
    used.add(i);
    for (const name of [stage.base, ...stage.uses]) queue.push(byName(name, i));
  }
  return used;
}
