// A picture of the window as a PNG with a palette: a third of the size of Chromium's, which the repository keeps.
import { deflateSync, inflateSync, crc32 } from "node:zlib";

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** The image's pixels, as Chromium writes them: eight bits of red, green and blue, not interlaced. */
function decode(png: Buffer): { width: number; height: number; pixels: Buffer } {
  const data: Buffer[] = [];
  for (let at = SIGNATURE.length; at < png.length; at += 12 + png.readUInt32BE(at)) if (png.toString("latin1", at + 4, at + 8) === "IDAT") data.push(png.subarray(at + 8, at + 8 + png.readUInt32BE(at)));
  const [width, height] = [png.readUInt32BE(16), png.readUInt32BE(20)];
  if (png[24] !== 8 || png[25] !== 2 || png[28] !== 0) throw new Error("not a picture of red, green and blue");
  const raw = inflateSync(Buffer.concat(data));
  const stride = width * 3;
  const pixels = Buffer.alloc(stride * height);
  for (let y = 0, at = 0; y < height; y++) {
    const filter = raw[at++] ?? 0;
    for (let x = 0, here = y * stride; x < stride; x++, here++) {
      const a = x >= 3 ? (pixels[here - 3] ?? 0) : 0;
      const b = y ? (pixels[here - stride] ?? 0) : 0;
      const c = y && x >= 3 ? (pixels[here - stride - 3] ?? 0) : 0;
      const [da, db, dc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
      const guess = [0, a, b, (a + b) >> 1, da <= db && da <= dc ? a : db <= dc ? b : c][filter] ?? 0;
      pixels[here] = (raw[at++] ?? 0) + guess;
    }
  }
  return { width, height, pixels };
}

/** The 256 colours that matter: surfaces as they are, and of the many between a letter and its ground the commonest. */
function palette(counts: Map<number, number>, flat: Map<number, number>): { colours: number[]; index: Map<number, number> } {
  const sorted = (map: Map<number, number>): number[] => [...map].sort((a, b) => b[1] - a[1]).map(([colour]) => colour);
  const byCount = sorted(counts);
  const exact = sorted(flat).slice(0, 64);
  const rough = new Map<number, number>();
  for (const colour of byCount) if (!exact.includes(colour)) rough.set(colour & 0xf0f0f0, (rough.get(colour & 0xf0f0f0) ?? 0) + (counts.get(colour) ?? 0));
  const colours = [...exact, ...sorted(rough).slice(0, 256 - exact.length).map((colour) => colour | 0x080808)];
  const distance = (a: number, b: number): number => ((a >> 16) - (b >> 16)) ** 2 + (((a >> 8) & 255) - ((b >> 8) & 255)) ** 2 + ((a & 255) - (b & 255)) ** 2;
  const nearest = (colour: number): number => colours.reduce((best, other, i) => (distance(colour, other) < distance(colour, colours[best] ?? 0) ? i : best), 0);
  return { colours, index: new Map(byCount.map((colour) => [colour, nearest(colour)])) };
}

function chunk(kind: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(kind, "latin1"), data]);
  const ends = Buffer.alloc(8);
  ends.writeUInt32BE(data.length, 0);
  ends.writeUInt32BE(crc32(body), 4);
  return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
}

export function small(png: Buffer): Buffer {
  const { width, height, pixels } = decode(png);
  const counts = new Map<number, number>();
  const flat = new Map<number, number>();
  const stride = width * 3;
  for (let at = 0; at < pixels.length; at += 3) {
    const colour = pixels.readUIntBE(at, 3);
    counts.set(colour, (counts.get(colour) ?? 0) + 1);
    const surface = at > stride && pixels.readUIntBE(at - 3, 3) === colour && pixels.readUIntBE(at - stride, 3) === colour;
    if (surface) flat.set(colour, (flat.get(colour) ?? 0) + 1);
  }
  const { colours, index } = palette(counts, flat);
  const rows = Buffer.alloc((width + 1) * height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) rows[y * (width + 1) + 1 + x] = index.get(pixels.readUIntBE((y * width + x) * 3, 3)) ?? 0;
  const header = Buffer.from(png.subarray(16, 29));
  header[9] = 3;
  return Buffer.concat([SIGNATURE, chunk("IHDR", header), chunk("PLTE", Buffer.concat(colours.map((c) => Buffer.from([c >> 16, (c >> 8) & 255, c & 255])))), chunk("IDAT", deflateSync(rows, { level: 9, memLevel: 9 })), chunk("IEND", Buffer.alloc(0))]);
}
