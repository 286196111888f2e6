import { defineConfig } from "vitest/config";

const at = (name: string): string => `tests/browser/${name}.test.ts`;
/** What frames cost is looked at when nothing else runs. */
const ALONE = ["feel", "logs"].map(at);
const common = { testTimeout: 240_000, hookTimeout: 500_000, globalSetup: "tests/browser/setup.ts" };

// Drives Debian's Chromium against the built UI; see tests/browser/.
export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      { test: { ...common, name: "screens", include: [at("*")], exclude: ALONE, sequence: { groupOrder: 0 } } },
      { test: { ...common, name: "feel", include: ALONE, fileParallelism: false, sequence: { groupOrder: 1 } } },
    ],
  },
});
