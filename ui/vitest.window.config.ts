import { defineConfig } from "vitest/config";

// Drives the real window; see tests/window/.
export default defineConfig({
  test: { include: ["tests/window/**/*.test.ts"], testTimeout: 240_000, hookTimeout: 120_000, fileParallelism: false, bail: 1 },
});
