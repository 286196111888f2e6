// A registry's settings in words.
import type { Registry } from "../../host/types";
import { count } from "../../lib/format";

export const lines = (text: string): string[] => text.split("\n").map((line) => line.trim()).filter(Boolean);

export const EMPTY: Registry = { host: "", login: "", mirrors: [], http: false, insecure: false, caFiles: [], configured: false };

/** What a choice of connection means. */
export function words(host: string, transport: string): string {
  if (transport === "insecure") return "Anybody between you and it can read and change what is pulled. Only for registries that you own.";
  if (transport === "http") return "Nothing is encrypted: passwords and images can be read on the way.";
  return /^(localhost|127\.|\[::1\])/.test(host) ? "A registry on this computer is spoken to in plain HTTP." : "";
}

/** What is told of it beside its login. */
export function about(r: Registry): string {
  return [
    r.login ? `login in the ${r.login}` : "no login",
    ...(r.mirrors.length ? [`mirrored by ${r.mirrors.join(", ")}`] : []),
    ...(r.caFiles.length ? [count(r.caFiles.length, ["a CA of its own", "# CAs of its own"])] : []),
  ].join(" · ");
}
