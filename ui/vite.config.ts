import { svelte } from "@sveltejs/vite-plugin-svelte";
import tailwindcss from "@tailwindcss/vite";
import { defineConfig } from "vite";

// `mock` mode builds the same app on recorded builds, for tests in a plain browser; it never ships.
export default defineConfig(({ mode }) => ({
  plugins: [tailwindcss(), svelte()],
  base: "./",
  define: { __MOCK__: JSON.stringify(mode === "mock") },
  build: { target: "safari16", chunkSizeWarningLimit: 700 },
  server: { port: 1420, strictPort: true },
}));
