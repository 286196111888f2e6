// A screen on the mock host, as a component test mounts it.
import { render } from "@testing-library/svelte";
import axe from "axe-core";
import { expect } from "vitest";
import App from "../src/App.svelte";
import { setHost } from "../src/host/host";
import { mockHost, type MockHost, type MockOptions } from "../src/host/mock";
import { live, toasts } from "../src/lib/live.svelte";

export function open(route: string, options: MockOptions = {}): MockHost {
  const host = mockHost(options);
  setHost(host);
  live.builds.clear();
  live.buildsKnown = false;
  toasts.items = [];
  // An open dialog of the test before may have closed the page to pointers.
  document.body.style.pointerEvents = "";
  location.hash = `#/${route}`;
  render(App);
  return host;
}

/** Contrast needs a real browser; the rest is checked here. */
export async function accessible(): Promise<void> {
  const result = await axe.run(document.body, { rules: { "color-contrast": { enabled: false } } });
  const found = result.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html).slice(0, 2).join(" ")}`);
  expect(found).toEqual([]);
}
