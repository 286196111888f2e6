// A list that grows at its end and is shortened at its beginning. Items are numbered from 0 and keep their number.
// Invariant: no operation touches more than a page, however long the list is.

export class Paged<T> {
  /** The number of the first item that is kept, and the one after the last. */
  first = 0;
  end = 0;
  /** The page that `first` is on is `pages[0]`. */
  private pages: T[][] = [];

  constructor(readonly size: number) {}

  get length(): number {
    return this.end - this.first;
  }

  push(item: T): void {
    if (this.end % this.size === 0 || !this.pages.length) this.pages.push([]);
    this.pages.at(-1)?.push(item);
    this.end++;
  }

  at(n: number): T | undefined {
    if (n < this.first || n >= this.end) return undefined;
    const page = this.pages[Math.floor(n / this.size) - this.firstPage];
    return page?.[n % this.size];
  }

  /** Those before that number go. */
  drop(before: number): void {
    const old = this.firstPage;
    this.first = Math.min(Math.max(before, this.first), this.end);
    this.pages.splice(0, Math.min(this.firstPage - old, this.pages.length));
  }

  *[Symbol.iterator](): Generator<T> {
    for (let n = this.first; n < this.end; n++) yield this.at(n) as T;
  }

  private get firstPage(): number {
    return Math.floor(this.first / this.size);
  }
}
