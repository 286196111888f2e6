// The rows that the Logs tab shows: the log's lines that match, with a heading where the step changes, and where each
// is on the screen.
// Invariants: new lines cost what they are, however many there are already; a search looks through the log in bites;
// drawing looks at a page of rows and at the sums of the others.
import { strip } from "./ansi";
import type { Line, Log } from "./log";
import { Paged } from "./paged";

export const LINE = 18;
export const HEADING = 30;
/** Lines that are looked at before the clock is. */
const BITE = 256;
const PAGE = 1024;

/** The name of a step above that line. */
export interface Heading { number: number; heading: string }
export type Row = Line | Heading;

export class LogView {
  private readonly rows = new Paged<Row>(PAGE);
  /** Heights of pages of rows; the first one's is of what is left of it. */
  private sums: number[] = [];
  /** Columns that fit into a row; lines that are longer take several. */
  private columns = Infinity;
  private next = 0;
  private last = "";
  private readonly needle: string;
  /** Height of everything, and of what was dropped since this began. */
  total = 0;
  gone = 0;
  hits = 0;

  constructor(private readonly log: Log, find = "", private readonly only = "") {
    this.needle = find.toLowerCase();
  }

  get first(): number {
    return this.rows.first;
  }

  get end(): number {
    return this.rows.end;
  }

  at(n: number): Row | undefined {
    return this.rows.at(n);
  }

  /** Looks at new lines until then; whether it came to the end. */
  catchUp(deadline: number): boolean {
    this.forget();
    const { lines } = this.log;
    this.next = Math.max(this.next, lines.first);
    while (this.next < lines.end) {
      const stop = Math.min(this.next + BITE, lines.end);
      for (; this.next < stop; this.next++) this.look(this.next);
      if (performance.now() > deadline) break;
    }
    return this.next >= lines.end;
  }

  /** Lines wrap at so many columns; `Infinity`: they don't. */
  wrapAt(columns: number): void {
    if (columns === this.columns) return;
    this.columns = columns;
    this.sums = [];
    this.total = 0;
    for (let n = this.rows.first; n < this.rows.end; n++) this.sum(n);
  }

  /** The row at that height, and where it begins. */
  find(y: number): { row: number; top: number } {
    let top = 0;
    let page = 0;
    for (; page < this.sums.length - 1 && top + (this.sums[page] ?? 0) <= y; page++) top += this.sums[page] ?? 0;
    let row = page === 0 ? this.rows.first : (Math.floor(this.rows.first / PAGE) + page) * PAGE;
    for (; row < this.rows.end - 1 && top + this.height(row) <= y; row++) top += this.height(row);
    return { row, top };
  }

  height(n: number): number {
    const row = this.rows.at(n);
    if (!row || "heading" in row) return HEADING;
    return LINE * Math.max(1, Math.ceil(row.columns / this.columns));
  }

  /** All of it as text. */
  text(colour: boolean, heading: (vertex: string) => string): string {
    const out: string[] = [];
    for (const row of this.rows) out.push("heading" in row ? `# ${heading(row.heading)}` : colour ? row.text : strip(row.text));
    return out.join("\n");
  }

  private look(n: number): void {
    const line = this.log.lines.at(n);
    if (!line || (this.only && line.vertex !== this.only)) return;
    if (this.needle && !strip(line.text).toLowerCase().includes(this.needle)) return;
    if (line.vertex !== this.last) this.add({ number: n, heading: line.vertex });
    this.last = line.vertex;
    this.hits++;
    this.add(line);
  }

  private add(row: Row): void {
    this.rows.push(row);
    this.sum(this.rows.end - 1);
  }

  private sum(n: number): void {
    const page = Math.floor(n / PAGE) - Math.floor(this.rows.first / PAGE);
    const height = this.height(n);
    this.sums[page] = (this.sums[page] ?? 0) + height;
    this.total += height;
  }

  /** Rows of lines that the log dropped go, too. */
  private forget(): void {
    let n = this.rows.first;
    for (let row = this.rows.at(n); row && row.number < this.log.lines.first; row = this.rows.at(++n)) {
      const height = this.height(n);
      this.sums[0] = (this.sums[0] ?? 0) - height;
      this.total -= height;
      this.gone += height;
      if (!("heading" in row)) this.hits--;
      if ((n + 1) % PAGE === 0) this.sums.shift();
    }
    this.rows.drop(n);
  }
}
