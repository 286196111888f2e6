// What happened, in one line.
import type { BuildDetail } from "../../host/types";
import { duration } from "../../lib/format";
import { parseName, type Build } from "../../lib/steps";

export function headline(detail: BuildDetail, build: Build, now: number): string {
  const { summary, failure } = detail;
  const took = duration((summary.completed ?? now) - summary.created);
  if (summary.status === "running") {
    const step = build.running();
    return step ? `Building for ${took}, at ${instruction(step.title)}` : `Building for ${took}`;
  }
  if (summary.status === "cancelled") return `Cancelled after ${took}`;
  if (summary.status === "failed") {
    const step = failure?.step || build.steps.get(failure?.vertex ?? "")?.name;
    const at = step ? ` at ${instruction(parseName(step).title)}` : "";
    const code = failure?.exitCode ? `, exit ${failure.exitCode}` : "";
    return `Failed in ${took}${at}${code}`;
  }
  // The line says what happened; where the image lies is beside it.
  const what = summary.tags[0] ? ` ${summary.tags[0].split("/").at(-1)}` : "";
  const cached = summary.cachedSteps ? `, ${summary.cachedSteps} of ${summary.totalSteps} steps cached` : `, all ${summary.totalSteps} steps ran`;
  return `Built${what} in ${took}${cached}`;
}

/** Short enough for a title: an instruction without its flags. */
export function instruction(title: string): string {
  const text = title.replace(/\s--\w+=\S+/g, "").replace(/\s+/g, " ");
  return text.length > 48 ? `${text.slice(0, 47)}…` : text;
}

/** What to try after a failure; only where the message says enough to be useful. */
export function advice(message: string, log: string): string[] {
  const all = `${message}\n${log}`;
  const found: string[] = [];
  const say = (pattern: RegExp, text: string): void => void (pattern.test(all) && found.push(text));
  say(/did you mean (\w+)/i, `Did you mean ${/did you mean (\w+)/i.exec(all)?.[1] ?? ""}? Change the marked line.`);
  say(/exit code: 127|: not found\b/, "A command wasn’t found. Check its spelling, and that an earlier step installs it.");
  say(/exit code: 137|out of memory|Killed/, "The step was killed, most likely for want of memory. Give the machine more of it, or let the step use fewer jobs.");
  say(/no space left on device|ENOSPC/i, "The disk is full. Free up space in Cache.");
  say(/could not resolve|temporary failure in name resolution|no such host/i, "A name couldn’t be resolved. Check the network, and the proxy in Machine.");
  say(/certificate|x509/i, "A certificate wasn’t trusted. Add your company’s CA in Machine.");
  say(/401|403|unauthorized|denied/i, "The registry refused. Log in to it; see Registries.");
  say(/failed to compute cache key|"\/[^"]+": not found/, "A file to copy isn’t in the build context. Check the path, and .dockerignore.");
  return found;
}
