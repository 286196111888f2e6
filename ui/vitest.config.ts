import { svelte } from "@sveltejs/vite-plugin-svelte";
import { svelteTesting } from "@testing-library/svelte/vite";
import { defineConfig } from "vitest/config";

export default defineConfig({
  plugins: [svelte(), svelteTesting()],
  define: { __MOCK__: "true", __LOCALES__: '["en"]' },
  test: {
    environment: "jsdom",
    include: ["src/**/*.test.ts", "tests/*.test.ts"],
    setupFiles: ["tests/setup.ts"],
    testTimeout: 60_000,
  },
});
