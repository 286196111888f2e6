// What changes by itself: the machine, the list of builds, and the clock that relative times go by. The one
// store that screens share.
import { SvelteMap } from "svelte/reactivity";
import { useHost } from "../host/host";
import type { AppSettings, BuildSummary, Check, HostFailure, MachineStatus } from "../host/types";

/** Whether a check is worth a look. */
export const isBad = (check: Check, muted: Set<string>): boolean => (check.outcome === "failed" || check.outcome === "warning") && !muted.has(check.id);

class Live {
  machine: MachineStatus | null = $state.raw(null);
  builds = new SvelteMap<string, BuildSummary>();
  buildsKnown = $state(false);
  now = $state(0);
  settings: AppSettings | null = $state.raw(null);
  checks: Check[] = $state.raw([]);
  /** What the doctor found, but for what is muted. */
  checksFound = $derived(this.checks.filter((check) => isBad(check, new Set(this.settings?.mutedChecks ?? []))).length);

  /** Newest first. */
  sorted = $derived([...this.builds.values()].sort((a, b) => b.created - a.created));
  running = $derived(this.sorted.filter((build) => build.status === "running"));

  start(): () => void {
    const host = useHost();
    this.now = host.now();
    const timer = setInterval(() => (this.now = host.now()), 1000);
    const machine = host.watchMachine((status) => (this.machine = status));
    const builds = host.watchBuilds((change) => {
      if (change.reset) this.builds.clear();
      for (const build of change.changed) this.builds.set(build.ref, build);
      for (const ref of change.removed) this.builds.delete(ref);
      this.buildsKnown = true;
    });
    const settings = host.watchSettings((now) => this.apply(now));
    // The doctor's badge is there before anybody opens the doctor.
    host.diagnose().then((checks) => (this.checks = checks), () => {});
    return () => {
      settings();
      clearInterval(timer);
      machine();
      builds();
    };
  }

  apply(settings: AppSettings): void {
    this.settings = settings;
    const dark = settings.theme === "dark" || (settings.theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  }

  async save(change: Partial<AppSettings>): Promise<void> {
    if (!this.settings) return;
    const next = { ...this.settings, ...change };
    this.apply(next);
    await useHost().saveSettings(next);
  }
}

export const live = new Live();

export interface Toast {
  id: number;
  text: string;
  failure: HostFailure | null;
  undo: (() => void) | null;
}

class Toasts {
  items: Toast[] = $state([]);
  private next = 1;

  say(text: string, undo: (() => void) | null = null): void {
    this.push({ text, failure: null, undo });
  }

  fail(failure: HostFailure): void {
    this.push({ text: failure.message, failure, undo: null });
  }

  close(id: number): void {
    this.items = this.items.filter((item) => item.id !== id);
  }

  private push(toast: Omit<Toast, "id">): void {
    const id = this.next++;
    this.items = [...this.items.slice(-3), { id, ...toast }];
    setTimeout(() => this.close(id), toast.failure ? 12_000 : 6000);
  }
}

export const toasts = new Toasts();
