// The request that a recorded build began with; in the app the controller makes it.
import type { BuildDetail, BuildRequest, OutputChoice } from "./types";

export function request(detail: BuildDetail): BuildRequest {
  const { summary } = detail;
  return {
    context: summary.context, dockerfile: summary.dockerfile || "Dockerfile", target: summary.target, args: detail.args, labels: detail.labels, contexts: detail.contexts,
    // Where they came from isn't recorded, on purpose.
    secrets: detail.secrets.map((id) => ({ id, source: "file", value: "" })), ssh: detail.ssh,
    platforms: summary.platforms.length > 1 ? summary.platforms : [], tags: summary.tags, noCache: false, pull: false,
    output: output(summary.outputs), destination: "", cacheFrom: [], cacheTo: [],
  };
}

function output(kinds: string[]): OutputChoice {
  const kind = kinds[0] ?? "";
  if (kind === "image") return "store";
  if (kind === "docker" || kind === "moby") return "docker";
  if (kind === "oci" || kind === "local") return kind;
  return kind === "tar" ? "local" : "cache";
}
