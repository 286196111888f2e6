// Processes of one test: those whose environment has its directory of sockets.
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { basename } from "node:path";

const PATIENCE = 60_000;

/** All of them, or those of one program. */
export function processes(runtime: string, program = ""): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => {
      if (!pid) return false;
      try {
        const ours = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0").includes(`KILN_RUNTIME_DIR=${runtime}`);
        return ours && (!program || basename(executable(pid)) === program);
      } catch {
        // It has ended.
        return false;
      }
    });
}

/** The file that a process runs. */
export function executable(pid: number): string {
  return readlinkSync(`/proc/${pid}/exe`).replace(/ \(deleted\)$/, "");
}

/** Ends them all, and returns when they have. */
export async function end(runtime: string): Promise<void> {
  signal(processes(runtime), "SIGTERM");
  const deadline = Date.now() + PATIENCE;
  for (let left = processes(runtime); left.length; left = processes(runtime)) {
    if (Date.now() > deadline) signal(left, "SIGKILL");
    await new Promise((done) => setTimeout(done, 100));
  }
}

function signal(pids: number[], name: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch {
      // It has ended.
    }
  }
}
