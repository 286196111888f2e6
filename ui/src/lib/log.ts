// What a build printed, line by line. It only grows at its end; the oldest lines go when there are too many.
import type { LogChunk } from "../host/types";
import { strip } from "./ansi";
import { Paged } from "./paged";

export interface Line {
  /** How many lines came before it. */
  number: number;
  vertex: string;
  stream: number;
  text: string;
  time: number;
  /** How many characters a terminal would show of it. */
  columns: number;
}

/** How many of a step's last lines are at hand without a search. */
export const TAIL = 400;

export class Log {
  readonly lines = new Paged<Line>(1024);
  private readonly open = new Map<string, { line: Pick<Line, "vertex" | "stream" | "time">; text: string }>();
  /** In the order in which the steps first printed. */
  private readonly tails = new Map<string, Line[]>();

  constructor(private readonly keep: number) {}

  /** Lines that aren't kept any more. */
  get dropped(): number {
    return this.lines.first;
  }

  /** The steps that printed. */
  get printed(): string[] {
    return [...this.tails.keys()];
  }

  /** How many there are of them. */
  get printedSteps(): number {
    return this.tails.size;
  }

  take({ vertex, stream, text, time }: LogChunk): void {
    const key = `${vertex}/${stream}`;
    const parts = ((this.open.get(key)?.text ?? "") + text).split("\n");
    const line = { vertex, stream, time };
    this.open.set(key, { line, text: parts.pop() ?? "" });
    for (const part of parts) this.add(line, part);
    const before = this.lines.end - this.keep;
    if (before > this.lines.first) this.lines.drop(before);
  }

  /** Nothing more comes: what has no line's end is a line, too. */
  finish(): void {
    for (const { line, text } of this.open.values()) if (text) this.add(line, text);
    this.open.clear();
  }

  /** The last lines of one step. */
  tail(vertex: string, most = TAIL): Line[] {
    return this.tails.get(vertex)?.slice(-most) ?? [];
  }

  private add(from: Pick<Line, "vertex" | "stream" | "time">, text: string): void {
    const line = { ...from, number: this.lines.end, text, columns: columns(text) };
    this.lines.push(line);
    let tail = this.tails.get(from.vertex);
    if (!tail) this.tails.set(from.vertex, (tail = []));
    tail.push(line);
    // In large bites: each shifts the whole array.
    if (tail.length > 2 * TAIL) tail.splice(0, TAIL);
  }
}

// eslint-disable-next-line no-control-regex
const SPECIAL = /[\x00-\x1f]|[^\x00-\x7f]/;

function columns(text: string): number {
  if (!SPECIAL.test(text)) return text.length;
  let n = 0;
  for (const character of strip(text)) {
    const code = character.codePointAt(0) ?? 0;
    if (character === "\t") n += 8 - (n % 8);
    else if (isWide(code)) n += 2;
    else if (code >= 0x20) n++;
  }
  return n;
}

/** What takes two columns: scripts of East Asia and pictures. */
const isWide = (code: number): boolean =>
  code >= 0x1100 && (code <= 0x115f || (code >= 0x2e80 && code <= 0xa4cf) || (code >= 0xac00 && code <= 0xd7a3) || (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) || (code >= 0xff00 && code <= 0xff60) || (code >= 0x1f300 && code <= 0x1faff) || (code >= 0x20000 && code <= 0x3fffd));
