// The built UI in Debian's Chromium: a small server of files, a page per case. Built once for all files of tests
// (`setup.ts`), but in a language of a test's own.
import { createServer, type Server } from "node:http";
import { readFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";
import { chromium, type Browser, type Page } from "playwright-core";
import { inject } from "vitest";
import type { MockOptions } from "../../src/host/mock";
import { built } from "./build";

const TYPES: Record<string, string> = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };

export interface Bed {
  open(route: string, options?: MockOptions, size?: { width: number; height: number }): Promise<Page>;
  close(): Promise<void>;
}

export async function bed(language = "en-US"): Promise<Bed> {
  const dist = language === "en-US" ? inject("dist") : await built(language);
  const server: Server = createServer((request, response) => {
    const path = normalize(new URL(request.url ?? "/", "http://x").pathname).replace(/^\/+/, "") || "index.html";
    readFile(join(dist, path)).then(
      (bytes) => response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" }).end(bytes),
      () => response.writeHead(404).end(),
    );
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const port = (server.address() as AddressInfo).port;
  const browser: Browser = await chromium.launch({ executablePath: process.env.KILN_CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--force-device-scale-factor=1"] });
  return {
    async open(route, options = {}, size = { width: 1280, height: 800 }) {
      const context = await browser.newContext({ viewport: size, reducedMotion: "reduce", locale: language, timezoneId: "UTC" });
      const page = await context.newPage();
      const problems: string[] = [];
      page.on("pageerror", (error) => problems.push(String(error)));
      page.on("close", () => {
        if (problems.length) throw new Error(problems.join("\n"));
      });
      await page.goto(`http://127.0.0.1:${port}/?mock=${encodeURIComponent(JSON.stringify(options))}#/${route}`);
      await page.waitForSelector("h1, [role=status]");
      return page;
    },
    async close() {
      await browser.close();
      server.close();
    },
  };
}
