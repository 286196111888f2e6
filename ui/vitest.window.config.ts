import { defineConfig } from "vitest/config";

// Drives the real window; see tests/window/.
export default defineConfig({
  test: { include: ["tests/window/**/*.test.ts"], testTimeout: 600_000, hookTimeout: 300_000, fileParallelism: false, bail: 1 },
});
