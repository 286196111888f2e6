// The log's store and its rows, against what a plain list would say.
import { describe, expect, test } from "vitest";
import { Log } from "./log";
import { HEADING, LINE, LogView } from "./logview";
import { Paged } from "./paged";

const chunk = (vertex: string, text: string) => ({ vertex, stream: 1, text, time: 0 });

test("a paged list keeps numbers while its beginning goes", () => {
  const list = new Paged<number>(4);
  let first = 0;
  for (let n = 0; n < 50; n++) {
    list.push(n * n);
    if (n % 7 === 6) list.drop((first += 5));
    expect([list.first, list.end, [...list]]).toEqual([first, n + 1, Array.from({ length: n + 1 - first }, (_, i) => (i + first) ** 2)]);
  }
  expect([list.at(first - 1), list.at(50)]).toEqual([undefined, undefined]);
  list.drop(99);
  list.push(7);
  expect([list.length, list.at(50)]).toEqual([1, 7]);
});

describe("a log", () => {
  test("makes lines of pieces that end anywhere, each step's by itself", () => {
    const log = new Log(100);
    for (const [vertex, text] of [["a", "one\ntw"], ["b", "x"], ["a", "o\n\nthree"], ["b", "y\n"]] as const) log.take(chunk(vertex, text));
    log.finish();
    expect([...log.lines].map((l) => `${l.number} ${l.vertex} ${l.text}`)).toEqual(["0 a one", "1 a two", "2 a ", "3 b xy", "4 a three"]);
    expect(log.printed).toEqual(["a", "b"]);
    expect(log.tail("a", 2).map((l) => l.text)).toEqual(["", "three"]);
  });
  test.each([["plain", 5], ["\x1b[31mred\x1b[0m", 3], ["a\tb", 9], ["日本", 4], ["10%\r100%", 4], ["é", 1]])("%j takes %i columns", (text, columns) => {
    const log = new Log(1);
    log.take(chunk("a", `${text}\n`));
    expect([...log.lines][0]?.columns).toBe(columns);
  });
});

describe("rows of a log", () => {
  /** Where each row begins, as a sum of all before it. */
  const places = (view: LogView): number[] => {
    const tops: number[] = [];
    for (let n = view.first, y = 0; n < view.end; y += view.height(n++)) tops.push(y);
    return tops;
  };
  function agrees(view: LogView): void {
    const tops = places(view);
    const total = (tops.at(-1) ?? 0) + (tops.length ? view.height(view.end - 1) : 0);
    expect(view.total).toBe(total);
    for (let i = 0; i < tops.length; i += 97) expect(view.find((tops[i] ?? 0) + 1)).toEqual({ row: view.first + i, top: tops[i] });
    expect(view.find(total + 1000).row).toBe(Math.max(view.end - 1, 0));
  }
  test("are where their heights put them, while lines come, go and wrap", () => {
    const log = new Log(3000);
    const view = new LogView(log);
    for (let n = 0; n < 60; n++) {
      log.take(chunk(n % 3 ? "a" : "b", Array.from({ length: 150 }, (_, i) => "x".repeat((n * i) % 230)).join("\n") + "\n"));
      if (n === 20) view.wrapAt(80);
      if (n === 40) view.wrapAt(33);
      expect(view.catchUp(Infinity)).toBe(true);
      if (n % 10 === 9) agrees(view);
    }
    expect(view.hits).toBe(3000);
    expect(view.gone).toBeGreaterThan(0);
    // Their lines are gone, and they with them.
    expect((view.at(view.first) as { number: number }).number).toBe(6000);
    agrees(view);
  });
  test("are those that match, found in bites", () => {
    const log = new Log(10_000);
    for (let n = 0; n < 2000; n++) log.take(chunk(n < 1000 ? "a" : "b", `\x1b[32mLine\x1b[0m ${n}\n`));
    const view = new LogView(log, "LINE 19");
    let bites = 1;
    while (!view.catchUp(0)) bites++;
    expect(bites).toBeGreaterThan(5);
    expect([view.hits, view.end]).toEqual([111, 113]);
    expect(view.total).toBe(2 * HEADING + 111 * LINE);
    expect(view.text(false, (v) => v.toUpperCase()).split("\n").slice(0, 2)).toEqual(["# A", "Line 19"]);
    log.take(chunk("b", "line 19, again\nother\n"));
    view.catchUp(Infinity);
    expect(view.hits).toBe(112);
    const one = new LogView(log, "", "b");
    one.catchUp(Infinity);
    expect(one.hits).toBe(1002);
    expect(one.text(true, () => "b")).toContain("\x1b[32mLine");
  });
});
