// The settings, the doctor's checks and what a support bundle holds.

import type { QuickBuild } from "./new";

export interface AppSettings {
  theme: "system" | "light" | "dark";
  startAtLogin: boolean;
  closeToTray: boolean;
  notifyFinished: "never" | "failed" | "all";
  mutedChecks: string[];
  recentFolders: string[];
  quickBuilds: QuickBuild[];
  /** Name of the builder in use; empty: the machine. Builders has a screen of its own. */
  builder: string;
}

/** How long records of builds are kept; 0 is the engine's own measure. */
export interface Retention {
  maxAgeDays: number;
  maxEntries: number;
  maxBytes: number;
}

export type CheckOutcome = "ok" | "warning" | "failed" | "skipped";

export interface Check {
  id: string;
  title: string;
  outcome: CheckOutcome;
  detail: string;
  fix: string;
}

export interface BundlePart {
  path: string;
  what: string;
  text: string;
}
