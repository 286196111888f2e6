// Numbers, times and names in words. One place, so that a size reads the same on every screen.

/** `340 ms`, `3.1 s`, `1m 04s`, `2h 05m`. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms) || ms < 0) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const tenths = Math.round(ms / 100);
  if (tenths < 600) return `${(tenths / 10).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${pad(seconds % 60)}s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)}h ${pad(minutes % 60)}m`;
}

const pad = (n: number): string => String(n).padStart(2, "0");

/** `812 bytes`, `4.1 kB`, `306.4 MB`, `6.1 GB`: powers of 1000, as disks and other tools count. */
export function size(bytes: number): string {
  if (!Number.isFinite(bytes) || bytes < 0) return "–";
  if (bytes < 1000) return `${bytes} ${bytes === 1 ? "byte" : "bytes"}`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = bytes / 1000;
  let unit = 0;
  while (value >= 999.95 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${value.toFixed(1)} ${units[unit]}`;
}

/** Memory is counted in powers of 1024, and so is what it is bought by. */
export const memory = (bytes: number): string => `${(bytes / 1024 ** 3).toFixed(1)} GB`;

export const exactSize = (bytes: number): string => `${bytes.toLocaleString("en-US")} bytes`;

/** `just now`, `4 min ago`, `yesterday`, `12 Nov`. */
export function ago(time: number | null, now: number): string {
  if (time === null) return "–";
  const seconds = Math.round((now - time) / 1000);
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86_400 && sameDay(time, now)) return `${Math.round(seconds / 3600)} h ago`;
  if (seconds < 2 * 86_400 && sameDay(time, now - 86_400_000)) return "yesterday";
  if (seconds < 7 * 86_400) return `${Math.max(2, Math.round(seconds / 86_400))} days ago`;
  const date = new Date(time);
  const text = `${date.getDate()} ${MONTHS[date.getMonth()]}`;
  return date.getFullYear() === new Date(now).getFullYear() ? text : `${text} ${date.getFullYear()}`;
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const sameDay = (a: number, b: number): boolean => new Date(a).toDateString() === new Date(b).toDateString();

/** `Today`, `Yesterday`, `12 November`: the heading of a day's builds. */
export function day(time: number, now: number): string {
  if (sameDay(time, now)) return "Today";
  if (sameDay(time, now - 86_400_000)) return "Yesterday";
  const date = new Date(time);
  const text = `${date.getDate()} ${MONTHS[date.getMonth()]}`;
  return date.getFullYear() === new Date(now).getFullYear() ? text : `${text} ${date.getFullYear()}`;
}

export function exactTime(time: number | null): string {
  if (time === null) return "";
  const d = new Date(time);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}

/** The first 12 characters of a digest's hash. */
export function shortDigest(digest: string): string {
  const hash = digest.includes(":") ? digest.slice(digest.indexOf(":") + 1) : digest;
  return hash.slice(0, 12);
}

export function count(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString("en-US")} ${n === 1 ? one : many}`;
}

export function percent(part: number, whole: number): string {
  return whole > 0 ? `${Math.round((100 * part) / whole)}%` : "0%";
}

/** Without the registry that everyone means. */
export function shortImage(name: string): string {
  return name.replace(/^docker\.io\/(library\/)?/, "");
}

/** `pkg:docker/debian@bookworm?…` as people write it. */
export function material(uri: string): string {
  const docker = /^pkg:docker\/(.+?)(?:@([^?]+))?(?:\?.*)?$/.exec(uri);
  if (docker) return decodeURIComponent(docker[1] ?? "") + (docker[2] ? `:${decodeURIComponent(docker[2])}` : "");
  return uri;
}
