// A squarified treemap: areas stand for sizes, and rectangles stay close to squares so that they can be
// compared and labelled.

export interface Rect<T> {
  item: T;
  x: number;
  y: number;
  width: number;
  height: number;
}

export function treemap<T>(items: T[], weigh: (item: T) => number, width: number, height: number): Rect<T>[] {
  const entries = items.map((item) => ({ item, weight: Math.max(weigh(item), 0) })).filter((e) => e.weight > 0);
  entries.sort((a, b) => b.weight - a.weight);
  const total = entries.reduce((sum, e) => sum + e.weight, 0);
  if (!total || width <= 0 || height <= 0) return [];
  const scale = (width * height) / total;
  const out: Rect<T>[] = [];
  let x = 0, y = 0, w = width, h = height;
  let rest = entries;
  while (rest.length) {
    const side = Math.min(w, h);
    let taken = 1;
    while (taken < rest.length && worst(rest.slice(0, taken + 1), scale, side) <= worst(rest.slice(0, taken), scale, side)) taken++;
    const row = rest.slice(0, taken);
    const thickness = (row.reduce((sum, e) => sum + e.weight, 0) * scale) / side;
    let along = 0;
    for (const entry of row) {
      const length = (entry.weight * scale) / thickness;
      if (w >= h) out.push({ item: entry.item, x, y: y + along, width: thickness, height: length });
      else out.push({ item: entry.item, x: x + along, y, width: length, height: thickness });
      along += length;
    }
    if (w >= h) { x += thickness; w -= thickness; } else { y += thickness; h -= thickness; }
    rest = rest.slice(taken);
  }
  return out;
}

function worst(row: { weight: number }[], scale: number, side: number): number {
  const sum = row.reduce((total, e) => total + e.weight, 0) * scale;
  const max = (row[0]?.weight ?? 0) * scale;
  const min = (row.at(-1)?.weight ?? 0) * scale;
  return Math.max((side * side * max) / (sum * sum), (sum * sum) / (side * side * min));
}
