// The host of the app: commands and events of the Tauri side. With `mock.ts` the only file that knows of it.
import { Channel, invoke } from "@tauri-apps/api/core";
import { listen } from "@tauri-apps/api/event";
import type { Host, Unsubscribe } from "./host";
import type * as t from "./types";

function on<T>(event: string, listener: (payload: T) => void): Unsubscribe {
  const stop = listen<T>(event, (message) => listener(message.payload));
  return () => void stop.then((end) => end());
}

/** A channel that tells the other side when nobody listens any more. */
function subscribe<T>(command: string, args: Record<string, unknown>, listener: (item: T) => void): Unsubscribe {
  const channel = new Channel<T>();
  let over = false;
  channel.onmessage = (item) => {
    if (!over) listener(item);
  };
  const id = invoke<number>(command, { ...args, channel });
  return () => {
    over = true;
    void id.then((subscription) => invoke("unsubscribe", { subscription }));
  };
}

export function tauriHost(): Host {
  return {
    now: () => Date.now(),
    watchMachine: (listener) => subscribe<t.MachineStatus>("watch_machine", {}, listener),
    watchUse: (listener) => subscribe<t.MachineUse>("watch_use", {}, listener),
    startMachine: () => invoke("start_machine"),
    stopMachine: (force) => invoke("stop_machine", { force }),
    restartMachine: () => invoke("restart_machine"),
    machineSettings: () => invoke("machine_settings"),
    saveMachineSettings: (settings) => invoke("save_machine_settings", { settings }),
    console: () => invoke("console"),
    resetMachine: (confirm) => invoke("reset_machine", { confirm }),
    watchBuilds: (listener) => subscribe<t.BuildsChange>("watch_builds", {}, listener),
    watchBuild: (reference, logs, listener) => subscribe<t.BuildUpdate>("watch_build", { reference, logs }, listener),
    buildDetail: (reference) => invoke("build_detail", { reference }),
    explainBuild: (reference) => invoke("explain_build", { reference }),
    cancelBuild: (reference) => invoke("cancel_build", { reference }),
    pinBuild: (reference, pinned) => invoke("pin_build", { reference, pinned }),
    deleteBuilds: (references) => invoke("delete_builds", { references }),
    importBuild: (path) => invoke("import_build", { path }),
    exportBuild: (reference, path) => invoke("export_build", { reference, path }),
    rebuild: (reference) => invoke("rebuild", { reference }),
    inspectFolder: (path, dockerfile) => invoke("inspect_folder", { path, dockerfile }),
    startBuild: (request) => invoke("start_build", { request }),
    askDockerfile: (request) => invoke("ask_dockerfile", { request }),
    watchFolder: (request, listener) => subscribe<t.WatchState>("watch_folder", { request }, listener),
    keptSecrets: () => invoke("kept_secrets"),
    keepSecret: (name, value) => invoke("keep_secret", { name, value }),
    forgetSecret: (name) => invoke("forget_secret", { name }),
    images: () => invoke("images"),
    inspectImage: (name) => invoke("inspect_image", { name }),
    pullImage: (name, listener) => subscribe<t.Transfer>("pull_image", { name }, listener),
    pushImage: (name, listener) => subscribe<t.Transfer>("push_image", { name }, listener),
    tagImage: (source, target) => invoke("tag_image", { source, target }),
    removeImages: (names) => invoke("remove_images", { names }),
    saveImages: (names, path) => invoke("save_images", { names, path }),
    loadImages: (path) => invoke("load_images", { path }),
    cacheRecords: () => invoke("cache_records"),
    planCleanup: (keepBytes) => invoke("plan_cleanup", { keepBytes }),
    runCleanup: (planId) => invoke("run_cleanup", { planId }),
    gcRuns: () => invoke("gc_runs"),
    gcPolicies: () => invoke("gc_policies"),
    saveGcPolicies: (policies) => invoke("save_gc_policies", { policies }),
    retention: () => invoke("retention"),
    saveRetention: (retention) => invoke("save_retention", { retention }),
    cacheMounts: () => invoke("cache_mounts"),
    browseMount: (recordId, path) => invoke("browse_mount", { recordId, path }),
    clearMount: (recordId) => invoke("clear_mount", { recordId }),
    exportMount: (recordId, path) => invoke("export_mount", { recordId, path }),
    importMount: (recordId, path) => invoke("import_mount", { recordId, path }),
    planPolicies: (policies) => invoke("plan_policies", { policies }),
    tools: () => invoke("tools"),
    installTools: (makeCurrent) => invoke("install_tools", { makeCurrent }),
    removeTools: () => invoke("remove_tools"),
    builders: () => invoke("builders"),
    addBuilder: (builder) => invoke("add_builder", { builder }),
    removeBuilder: (name) => invoke("remove_builder", { name }),
    useBuilder: (name) => invoke("use_builder", { name }),
    testBuilder: (builder) => invoke("test_builder", { builder }),
    registries: () => invoke("registries"),
    saveRegistry: (registry) => invoke("save_registry", { registry }),
    forgetRegistry: (host) => invoke("forget_registry", { host }),
    testRegistry: (host) => invoke("test_registry", { host }),
    loginRegistry: (host, username, secret) => invoke("login_registry", { host, username, secret }),
    logoutRegistry: (host) => invoke("logout_registry", { host }),
    diagnose: () => invoke("diagnose"),
    supportParts: () => invoke("support_parts"),
    supportPath: () => invoke("support_path"),
    saveSupport: (path, parts) => invoke("save_support", { path, parts }),
    watchSettings: (listener) => subscribe<t.AppSettings>("watch_settings", {}, listener),
    saveSettings: (settings) => invoke("save_settings", { settings }),
    pick: (ask) => invoke("pick", { ask }),
    onTrouble: (listener) => on<t.HostFailure>("trouble", listener),
    onFolderDropped: (listener) => on<string>("folder-dropped", listener),
    onOpen: (listener) => {
      // A link may have started the app: that was before anybody listened.
      void invoke<string | null>("asked_route").then((route) => { if (route) listener(route); });
      return on<string>("open-route", listener);
    },
  };
}
