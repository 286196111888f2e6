// Numbers, times and names in words, as the window's language has them. One place, so that a size reads the same on
// every screen.
import { locale } from "../locales/locale";

/** Days come before months in this app's English. */
const conventions = locale === "en" ? "en-GB" : locale;
const one = new Intl.NumberFormat(conventions, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat(conventions);
const share = new Intl.NumberFormat(conventions, { style: "percent" });
const inUnit = (unit: string): Intl.NumberFormat => new Intl.NumberFormat(conventions, { style: "unit", unit, minimumFractionDigits: 1, maximumFractionDigits: 1 });
const UNITS = ["kilobyte", "megabyte", "gigabyte", "terabyte"].map(inUnit);
const dayOfYear = new Intl.DateTimeFormat(conventions, { day: "numeric", month: "short" });
const dayAndYear = new Intl.DateTimeFormat(conventions, { day: "numeric", month: "short", year: "numeric" });
const enumeration = new Intl.ListFormat(conventions);

export const number = (n: number): string => whole.format(n);
/** `1.4`. */
export const tenths = (n: number): string => one.format(n);
export const list = (words: string[]): string => enumeration.format(words);

/** `340 ms`, `3.1 s`, `1m 04s`, `2h 05m`. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms) || ms < 0) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const tenths = Math.round(ms / 100);
  if (tenths < 600) return `${one.format(tenths / 10)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${pad(seconds % 60)}s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)}h ${pad(minutes % 60)}m`;
}

const pad = (n: number): string => String(n).padStart(2, "0");

/** `812 bytes`, `4.1 kB`, `306.4 MB`, `6.1 GB`: powers of 1000, as disks and other tools count. */
export function size(bytes: number): string {
  if (!Number.isFinite(bytes) || bytes < 0) return "–";
  if (bytes < 1000) return exactSize(bytes);
  const unit = unitOf(bytes);
  return UNITS[unit]?.format(bytes / 1000 ** (unit + 1)) ?? "–";
}

/** Of so many bytes, 1000 and more: as large as it may be so that there is no 0 before the point. */
const unitOf = (bytes: number): number => UNITS.findIndex((_, unit) => unit === UNITS.length - 1 || bytes < 999.95 * 1000 ** (unit + 1));

/** `41.2 of 180.0 MB`: a part and all of it, in one unit. */
export function sizeOf(part: number, all: number): string {
  const begin = all < 1000 ? whole.format(part) : one.format(part / 1000 ** (unitOf(all) + 1));
  return `${begin} of ${size(all)}`;
}

/** Memory is counted in powers of 1024, and so is what it is bought by. */
export const memoryOf = (part: number, all: number): string => `${one.format(part / 1024 ** 3)} of ${memory(all)}`;
export const memory = (bytes: number): string => UNITS[2]?.format(bytes / 1024 ** 3) ?? "–";

export const exactSize = (bytes: number): string => count(bytes, ["# byte", "# bytes"]);

/** `just now`, `4 min ago`, `yesterday`, `12 Nov`. */
export function ago(time: number | null, now: number): string {
  if (time === null) return "–";
  const seconds = Math.round((now - time) / 1000);
  if (seconds < 45) return "just now";
  if (seconds < 3600) return `${Math.max(1, Math.round(seconds / 60))} min ago`;
  if (seconds < 86_400 && sameDay(time, now)) return `${Math.round(seconds / 3600)} h ago`;
  if (seconds < 2 * 86_400 && sameDay(time, now - 86_400_000)) return /* @wc-include */ "yesterday";
  if (seconds < 7 * 86_400) return count(Math.max(2, Math.round(seconds / 86_400)), ["# day ago", "# days ago"]);
  const date = new Date(time);
  return (date.getFullYear() === new Date(now).getFullYear() ? dayOfYear : dayAndYear).format(date);
}

const sameDay = (a: number, b: number): boolean => new Date(a).toDateString() === new Date(b).toDateString();

/** `Today`, `Yesterday`, `12 November`: the heading of a day's builds. */
export function day(time: number, now: number): string {
  if (sameDay(time, now)) return "Today";
  if (sameDay(time, now - 86_400_000)) return "Yesterday";
  const date = new Date(time);
  return (date.getFullYear() === new Date(now).getFullYear() ? dayOfYear : dayAndYear).format(date);
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

/** The form that goes with the number, which stands for its `#`. A catalogue brings its language's forms and their rule. */
export function count(n: number, forms: string[], form: (n: number) => number = (n) => (n === 1 ? 0 : 1)): string {
  return (forms[form(n)] ?? forms[0] ?? "#").replace("#", whole.format(n));
}

/** What is there isn't nothing: `<1%`. */
export function percent(part: number, of: number): string {
  const ratio = of > 0 ? part / of : 0;
  return ratio > 0 && ratio < 0.005 ? `<${share.format(0.01)}` : share.format(ratio);
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
