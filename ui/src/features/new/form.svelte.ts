// What the form of a new build holds. The folder's text fills it at once; where the engine runs, its frontend's
// answers take the text's place: the target's own arguments and secrets, and the checks.
import { failure as toFailure, useHost } from "../../host/host";
import type { BuildRequest, DockerfileAnswers, DockerfileInfo, FolderInfo, HostFailure, NameValue, Rebuild } from "../../host/types";
import { isRemote, problems } from "../../lib/command";
import { live } from "../../lib/live.svelte";

const EMPTY: BuildRequest = {
  context: "", dockerfile: "Dockerfile", target: "", args: [], labels: [], contexts: [], secrets: [], ssh: [], platforms: [], tags: [], noCache: false, pull: false, output: "cache",
  destination: "", cacheFrom: [], cacheTo: [],
};
/** So long nothing is typed before the engine is asked again. */
const PAUSE = 400;

const words = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean);
const lines = (text: string): string[] => text.split("\n").map((line) => line.trim()).filter(Boolean);

export class Form {
  path = $state("");
  info: FolderInfo | undefined = $state.raw();
  answers: DockerfileAnswers | undefined = $state.raw();
  /** Why the folder or the engine's answers can't be had. */
  problem: HostFailure | undefined = $state.raw();
  unanswered: HostFailure | undefined = $state.raw();
  /** What isn't known of the build that the form was filled from. */
  before: Rebuild | undefined = $state.raw();
  reading = $state(false);
  asking = $state(false);
  r: BuildRequest = $state({ ...EMPTY });
  tags = $state("");
  platforms = $state("");
  args: Record<string, string> = $state({});
  extra: NameValue[] = $state([]);
  labels: NameValue[] = $state([]);
  secrets: Record<string, { source: string; value: string }> = $state({});
  cacheFrom = $state("");
  cacheTo = $state("");
  private defaults: Record<string, string> = $state({});
  private turn = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** The screen is gone, and with it what is derived here: answers that come now are for nobody. */
  closed = false;

  readonly remote = $derived(isRemote(this.path));
  readonly file = $derived<DockerfileInfo | undefined>(this.info?.dockerfiles.find((d) => d.path === this.r.dockerfile) ?? this.info?.dockerfiles[0]);
  readonly stages = $derived(this.file?.stages.length ? this.file.stages : (this.answers?.targets ?? []).map((t) => ({ name: t.name, base: t.base, line: t.line, uses: [] as string[] })));
  readonly fields = $derived(
    (this.answers && !this.answers.error ? this.answers.args : (this.file?.args ?? []).map((a) => ({ ...a, description: "" })))
      .map((a) => ({ name: a.name, description: a.description, preset: this.defaults[a.name] ?? this.file?.args.find((known) => known.name === a.name)?.value ?? a.value })),
  );
  readonly mounts = $derived(this.answers && !this.answers.error ? this.answers.secrets : (this.file?.secrets ?? []).map((name) => ({ name, required: true, line: 0 })));
  readonly agents = $derived(this.answers && !this.answers.error ? this.answers.ssh.map((s) => s.name) : (this.file?.ssh ?? []));
  readonly request = $derived<BuildRequest>({
    ...this.r,
    context: this.path,
    args: [
      ...this.fields.flatMap(({ name, preset }) => { const value = this.args[name]; return value !== undefined && value !== preset ? [{ name, value }] : []; }),
      ...this.extra.filter((e) => e.name),
    ],
    labels: this.labels.filter((l) => l.name),
    secrets: this.mounts.flatMap(({ name }) => { const { source = "file", value = "" } = this.secrets[name] ?? {}; return value ? [{ id: name, source, value }] : []; }),
    ssh: this.agents,
    tags: words(this.tags),
    platforms: words(this.platforms),
    cacheFrom: lines(this.cacheFrom),
    cacheTo: lines(this.cacheTo),
  });
  readonly wrong = $derived([
    ...problems(this.request, this.mounts.filter((m) => m.required).map((m) => m.name)),
    ...(this.answers?.error ? [`The Dockerfile can’t be built: ${this.answers.error}`] : []),
  ]);
  /** What the answers depend on. */
  readonly question = $derived(JSON.stringify([this.info?.path, this.r.dockerfile, this.r.target, this.request.args, this.request.platforms]));
  /** Asking another engine than a machine that is off wakes nothing. */
  readonly mayAsk = $derived(live.machine?.state === "running" || (live.settings?.builder ?? "") !== "");

  async read(): Promise<void> {
    if (!this.path) return;
    this.reading = true;
    this.problem = undefined;
    this.answers = undefined;
    this.defaults = {};
    try {
      if (this.remote) this.info = elsewhere(this.path, this.r.dockerfile);
      else {
        const info = await useHost().inspectFolder(this.path, this.r.dockerfile);
        if (this.closed) return;
        if (!info.dockerfiles.some((d) => d.path === this.r.dockerfile)) this.r.dockerfile = info.dockerfiles[0]?.path ?? "Dockerfile";
        this.info = info;
      }
    } catch (error) {
      this.info = undefined;
      this.problem = toFailure(error);
    } finally {
      this.reading = false;
    }
  }

  /** From a build of before. */
  async fill(ref: string): Promise<void> {
    const known = await useHost().rebuild(ref);
    if (this.closed) return;
    this.before = known;
    const before = known.request;
    this.r = { ...before };
    this.path = before.context;
    this.tags = before.tags.join(", ");
    this.platforms = before.platforms.join(", ");
    this.labels = before.labels;
    this.secrets = Object.fromEntries(before.secrets.map((s) => [s.id, { source: s.source, value: s.value }]));
    this.cacheFrom = before.cacheFrom.join("\n");
    this.cacheTo = before.cacheTo.join("\n");
    await this.read();
    if (this.closed) return;
    const isAsked = (name: string): boolean => this.file?.args.some((a) => a.name === name) ?? false;
    this.args = Object.fromEntries(before.args.filter((a) => isAsked(a.name)).map((a) => [a.name, a.value]));
    this.extra = before.args.filter((a) => !isAsked(a.name));
  }

  close(): void {
    this.closed = true;
    this.turn++;
    clearTimeout(this.timer);
  }

  /** Asks when nothing was typed for a moment. */
  askSoon(): () => void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.ask(), PAUSE);
    return () => clearTimeout(this.timer);
  }

  async ask(): Promise<void> {
    clearTimeout(this.timer);
    if (!this.info || (!this.remote && !this.file)) return;
    const turn = ++this.turn;
    const asked = $state.snapshot(this.request) as BuildRequest;
    this.asking = true;
    try {
      const answers = await useHost().askDockerfile(asked);
      if (turn !== this.turn) return;
      const given = new Set(asked.args.map((a) => a.name));
      for (const a of answers.args) if (!given.has(a.name)) this.defaults[a.name] = a.value;
      this.answers = answers;
      this.unanswered = undefined;
      // What the engine knows is no extra any more.
      for (const e of this.extra) if (answers.args.some((a) => a.name === e.name)) this.args[e.name] ??= e.value;
      this.extra = this.extra.filter((e) => !answers.args.some((a) => a.name === e.name));
    } catch (error) {
      if (turn !== this.turn) return;
      this.answers = undefined;
      this.unanswered = toFailure(error);
    } finally {
      if (turn === this.turn) this.asking = false;
    }
  }
}

/** A repository that nobody but the engine has read. */
function elsewhere(url: string, dockerfile: string): FolderInfo {
  const name = /([^/]+?)(\.git)?\/?([?#].*)?$/.exec(url)?.[1] ?? url;
  return { path: url, name, ignoreFile: "", dockerfiles: [{ path: dockerfile, source: "", stages: [], args: [], secrets: [], ssh: [], error: "" }] };
}
