// The references of the recorded builds by their names.
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../../testdata/builds/", import.meta.url));
export const recordings: Record<string, string> = Object.fromEntries(
  readdirSync(folder).map((file) => {
    const recording = JSON.parse(readFileSync(folder + file, "utf8")) as { name: string; record: { Ref: string } };
    return [recording.name, recording.record.Ref];
  }),
);
