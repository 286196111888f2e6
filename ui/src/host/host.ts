// The one door to everything outside of the window. `tauri.ts` opens it in the app, `mock.ts` in tests.
import type * as t from "./types";

export type Unsubscribe = () => void;

export interface Host {
  /** The time that the data is measured against. */
  now(): number;

  watchMachine(listener: (status: t.MachineStatus) => void): Unsubscribe;
  /** While the machine runs and somebody listens, every two seconds. */
  watchUse(listener: (use: t.MachineUse) => void): Unsubscribe;
  startMachine(): Promise<void>;
  stopMachine(force: boolean): Promise<void>;
  restartMachine(): Promise<void>;
  machineSettings(): Promise<t.MachineSettings>;
  /** Names of the settings that wait for the next start. */
  saveMachineSettings(settings: t.MachineSettings): Promise<string[]>;
  console(): Promise<string>;
  resetMachine(confirm: string): Promise<void>;

  watchBuilds(listener: (change: t.BuildsChange) => void): Unsubscribe;
  /** With what it prints, or without. */
  watchBuild(ref: string, logs: boolean, listener: (update: t.BuildUpdate) => void): Unsubscribe;
  buildDetail(ref: string): Promise<t.BuildDetail>;
  explainBuild(ref: string): Promise<t.Explanation[]>;
  cancelBuild(ref: string): Promise<void>;
  pinBuild(ref: string, pinned: boolean): Promise<void>;
  deleteBuilds(refs: string[]): Promise<void>;
  /** Takes in a `.dockerbuild`; the reference of its build. */
  importBuild(path: string): Promise<string>;
  exportBuild(ref: string, path: string): Promise<void>;

  /** What a build began with, to be built once more; nothing is started. */
  rebuild(ref: string): Promise<t.Rebuild>;
  /** Dockerfiles are looked for; the one that is named is read wherever it is. */
  inspectFolder(path: string, dockerfile: string): Promise<t.FolderInfo>;
  /** The reference of the build that began. */
  startBuild(request: t.BuildRequest): Promise<string>;
  /** Asks the engine's frontend; needs the engine. */
  askDockerfile(request: t.BuildRequest): Promise<t.DockerfileAnswers>;
  /** Builds at once, and again whenever the folder changes, until nobody listens. */
  watchFolder(request: t.BuildRequest, listener: (state: t.WatchState) => void): Unsubscribe;
  /** Names of the secrets that the keyring keeps for builds. */
  keptSecrets(): Promise<string[]>;
  keepSecret(name: string, value: string): Promise<void>;
  forgetSecret(name: string): Promise<void>;

  images(): Promise<t.Image[]>;
  inspectImage(name: string): Promise<t.ImageDetail>;
  /** Until its end is told; who stops listening before cancels it. */
  pullImage(name: string, listener: (transfer: t.Transfer) => void): Unsubscribe;
  pushImage(name: string, listener: (transfer: t.Transfer) => void): Unsubscribe;
  tagImage(source: string, target: string): Promise<void>;
  removeImages(names: string[]): Promise<number>;
  /** The size of the archive that was written. */
  saveImages(names: string[], path: string): Promise<number>;
  /** Names of what was in the archive. */
  loadImages(path: string): Promise<string[]>;

  cacheRecords(): Promise<t.CacheRecord[]>;
  planCleanup(keepBytes: number): Promise<t.Plan>;
  runCleanup(planId: string): Promise<t.GcRun>;
  gcRuns(): Promise<t.GcRun[]>;
  gcPolicies(): Promise<t.Policy[]>;
  /** Now and after the machine's next start. Names of the settings that wait for it, here and below. */
  saveGcPolicies(policies: t.Policy[]): Promise<string[]>;
  retention(): Promise<t.Retention>;
  saveRetention(retention: t.Retention): Promise<string[]>;
  /** What they would remove now. */
  planPolicies(policies: t.Policy[]): Promise<t.Plan>;
  cacheMounts(): Promise<t.CacheMount[]>;
  browseMount(recordId: string, path: string): Promise<t.FileEntry[]>;
  clearMount(recordId: string): Promise<number>;
  exportMount(recordId: string, path: string): Promise<number>;
  importMount(recordId: string, path: string): Promise<void>;

  tools(): Promise<t.ToolState>;
  installTools(makeCurrent: boolean): Promise<t.ToolState>;
  removeTools(): Promise<t.ToolState>;

  builders(): Promise<t.Builder[]>;
  addBuilder(builder: t.BuilderAddress): Promise<void>;
  removeBuilder(name: string): Promise<void>;
  useBuilder(name: string): Promise<void>;
  testBuilder(builder: t.BuilderAddress): Promise<t.TestStep[]>;
  registries(): Promise<t.Registry[]>;
  saveRegistry(registry: t.Registry): Promise<string[]>;
  /** Its settings go, its login stays. */
  forgetRegistry(host: string): Promise<string[]>;
  testRegistry(host: string): Promise<t.TestStep[]>;
  /** Tested, then kept by the credential helper, else in the keyring. */
  loginRegistry(host: string, username: string, secret: string): Promise<void>;
  logoutRegistry(host: string): Promise<void>;
  diagnose(): Promise<t.Check[]>;
  /** What a support bundle would hold, masked. */
  supportParts(): Promise<t.BundlePart[]>;
  /** Where it goes unless another place is given. */
  supportPath(): Promise<string>;
  saveSupport(path: string, parts: t.BundlePart[]): Promise<void>;

  /** Now and whenever somebody changes them, in the file too. */
  watchSettings(listener: (settings: t.AppSettings) => void): Unsubscribe;
  saveSettings(settings: t.AppSettings): Promise<void>;
  /** By the desktop's own dialog; null where nothing was chosen. */
  pick(ask: t.Pick): Promise<string | null>;
  /** A folder that the user drops on the window. */
  onFolderDropped(listener: (path: string) => void): Unsubscribe;
  /** What goes on by itself failed. */
  onTrouble(listener: (failure: t.HostFailure) => void): Unsubscribe;
  /** Something outside (tray, deep link) asks for a screen. */
  onOpen(listener: (route: string) => void): Unsubscribe;
}

/** A failure as people read it, whatever threw it. */
export function failure(error: unknown): t.HostFailure {
  if (typeof error === "object" && error !== null && "kind" in error && "message" in error) {
    const known = error as t.HostFailure;
    return { kind: known.kind, message: known.message, hint: known.hint ?? "" };
  }
  return { kind: "internal", message: error instanceof Error ? error.message : String(error), hint: "" };
}

let current: Host | undefined;

export function useHost(): Host {
  if (!current) throw new Error("the host isn't set up");
  return current;
}

export function setHost(host: Host): void {
  current = host;
}
