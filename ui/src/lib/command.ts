// The command line that does what the form says, for people who want it in a script.
import type { BuildRequest } from "../host/types";

const quote = (text: string): string => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

export function buildCommand(request: BuildRequest, program: "docker buildx build" | "kiln build" = "docker buildx build"): string {
  const parts: string[] = [program];
  const flag = (name: string, value: string): void => void parts.push(`${name} ${quote(value)}`);
  if (request.dockerfile && request.dockerfile !== "Dockerfile") flag("--file", join(request.context, request.dockerfile));
  if (request.target) flag("--target", request.target);
  for (const tag of request.tags) flag("--tag", tag);
  for (const { name, value } of request.args) flag("--build-arg", `${name}=${value}`);
  for (const { name, value } of request.labels) flag("--label", `${name}=${value}`);
  for (const { name, value } of request.contexts) flag("--build-context", `${name}=${value}`);
  for (const secret of request.secrets) flag("--secret", secretFlag(secret));
  for (const ssh of request.ssh) flag("--ssh", ssh);
  for (const cache of request.cacheFrom) flag("--cache-from", cache);
  for (const cache of request.cacheTo) flag("--cache-to", cache);
  if (request.platforms.length) flag("--platform", request.platforms.join(","));
  if (request.noCache) parts.push("--no-cache");
  if (request.pull) parts.push("--pull");
  if (request.output === "push") parts.push("--push");
  if (request.output === "docker") parts.push("--load");
  if (request.output === "store") flag("--output", "type=image");
  if (request.output === "oci") flag("--output", `type=oci,dest=${request.destination || "image.tar"}`);
  if (request.output === "local") flag("--output", `type=local,dest=${request.destination || "out"}`);
  parts.push(quote(request.context || "."));
  return parts.join(" \\\n  ");
}

/** What only Kiln's keyring holds comes from a variable of the same name, for whoever runs the command. */
function secretFlag(secret: BuildRequest["secrets"][number]): string {
  if (secret.source === "keyring") return `id=${secret.id},env=${secret.id.toUpperCase().replaceAll(/\W/g, "_")}`;
  return `id=${secret.id},${secret.source === "env" ? "env" : "src"}=${secret.value}`;
}

/** Whether the engine gets the files itself. */
export const isRemote = (context: string): boolean => /^(https?|git|ssh):\/\/|^github\.com\/|^[\w.-]+@[\w.-]+:(?!\/\/)/.test(context);

const join = (folder: string, file: string): string => (folder && !isRemote(folder) && !file.startsWith("/") ? `${folder.replace(/\/$/, "")}/${file}` : file);

/** What must be mended before a build can start, in words; empty when nothing. `needed` are the secrets that the target can't do without. */
export function problems(request: BuildRequest, needed: string[] = request.secrets.map((s) => s.id)): string[] {
  const found: string[] = [];
  if (!request.context) found.push("Choose a folder or a repository to build.");
  if (request.output === "push" && request.tags.length === 0) found.push("Give the image a name to push it to.");
  if ((request.output === "docker" || request.output === "store") && request.tags.length === 0) found.push("Give the image a name.");
  if ((request.output === "oci" || request.output === "local") && !request.destination) found.push("Say where the files go.");
  if (request.output === "docker" && request.platforms.length > 1) found.push("Docker loads one platform at a time; choose one.");
  for (const id of needed) if (!request.secrets.some((s) => s.id === id && s.value)) found.push(`Say where the secret “${id}” comes from.`);
  for (const tag of request.tags) if (!/^[a-z0-9][\w./:@-]*$/.test(tag)) found.push(`“${tag}” isn’t an image name: use lower-case letters, digits, and . _ - /`);
  return found;
}
