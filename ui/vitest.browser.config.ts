import { defineConfig } from "vitest/config";

// Drives Debian's Chromium against the built UI; see tests/browser/.
export default defineConfig({
  test: { include: ["tests/browser/**/*.test.ts"], testTimeout: 240_000, hookTimeout: 500_000, fileParallelism: false },
});
