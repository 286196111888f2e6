import { svelte } from "@sveltejs/vite-plugin-svelte";
import tailwindcss from "@tailwindcss/vite";
import { defineConfig } from "vite";
import { wuchale } from "wuchale/vite";
import { locales } from "./wuchale.config.js";

// `mock` mode builds the same app on recorded builds, for tests in a plain browser; it never ships.
export default defineConfig(({ mode }) => ({
  plugins: [tailwindcss(), wuchale(), svelte()],
  base: "./",
  define: { __MOCK__: JSON.stringify(mode === "mock"), __LOCALES__: JSON.stringify(locales) },
  build: { target: "safari16", chunkSizeWarningLimit: 700 },
  server: { port: 1420, strictPort: true },
}));
