// The UI as it ships, but with the mock host.
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Where the UI is, built with the mock host; `name` is of this build. */
export async function built(name: string): Promise<string> {
  const outDir = join(root, `node_modules/.cache/dist-${name}`);
  // Vitest's own mode must not reach the product's build.
  process.env.NODE_ENV = "production";
  await build({ root, mode: "mock", logLevel: "error", build: { outDir, emptyOutDir: true } });
  return outDir;
}
