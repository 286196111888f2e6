// What a person reaches who sees the window at twice its size, or has no mouse. Runs in the page, on what is drawn.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Page } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What axe finds wrong with what is drawn; by all of its rules, or by some. */
export async function axeFinds(page: Page, rules?: string[]): Promise<string[]> {
  await page.evaluate(axe);
  return page.evaluate(async (runOnly) => {
    const result = await (globalThis as unknown as { axe: { run(options: { runOnly?: string[] }): Promise<{ violations: { id: string; nodes: { html: string; failureSummary?: string }[] }[] }> } }).axe.run(runOnly ? { runOnly } : {});
    return result.violations.map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => `${n.html.slice(0, 160)} ${(n.failureSummary ?? "").slice(0, 200)}`).join("\n   ")}`);
  }, rules);
}

/** The window that ui.md calls the smallest, halved: 200 % zoom there has as many CSS pixels. */
export const ZOOMED = { width: 640, height: 400 };

/** Texts and controls that no scrolling brings into view. Ends in "…" are a choice, not a cut. */
export function cutOff(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const found: string[] = [];
    const words = (element: Element): boolean => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent?.trim());
    if (document.documentElement.scrollWidth > innerWidth) found.push("the page scrolls sideways");
    for (const element of document.querySelectorAll("body *")) {
      if (!(element instanceof HTMLElement) || !(words(element) || element.matches("a[href], button, input, select, textarea"))) continue;
      if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || element.closest(".sr-only, option, [aria-hidden=true]")) continue;
      let { left, right, top, bottom } = element.getBoundingClientRect();
      const name = `${element.tagName.toLowerCase()} “${(element.innerText || element.getAttribute("aria-label") || "").slice(0, 40)}”`;
      if (right - left < 1 || bottom - top < 1) {
        found.push(`${name} has no room`);
        continue;
      }
      if (element.matches("button, .btn") && element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).textOverflow !== "ellipsis") found.push(`${name} is wider than its button`);
      let fixed = false;
      for (let at: HTMLElement | null = element; at && at !== document.body && !fixed; at = at.parentElement) {
        const style = getComputedStyle(at);
        fixed = style.position === "fixed";
        if (style.textOverflow === "ellipsis" && style.overflowX === "hidden") [left, right] = [at.getBoundingClientRect().left, at.getBoundingClientRect().right];
        if (at === element) continue;
        const box = at.getBoundingClientRect();
        const scrolls = (way: string): boolean => way === "auto" || way === "scroll";
        // What scrolls brings its content into its own box; what hides cuts at it.
        if (scrolls(style.overflowX)) [left, right] = [box.left, Math.min(box.left + right - left, box.right)];
        else if (style.overflowX !== "visible" && (left < box.left - 1 || right > box.right + 1)) found.push(`${name} is cut at a side`);
        if (scrolls(style.overflowY)) [top, bottom] = [box.top, Math.min(box.top + bottom - top, box.bottom)];
        else if (style.overflowY !== "visible" && (top < box.top - 1 || bottom > box.bottom + 1)) found.push(`${name} is cut above or below`);
      }
      if (left < -1 || right > innerWidth + 1 || top < -1 || bottom > innerHeight + 1) found.push(`${name} is outside of the window: ${[left, right, top, bottom].map(Math.round).join(" ")}`);
    }
    return [...new Set(found)];
  });
}

/** Texts that are drawn over each other. What floats or sticks is meant to lie above. */
export function overlaps(page: Page): Promise<string[]> {
  return page.evaluate(() => {
    const scope = document.querySelector("[role=dialog], [role=menu]") ?? document.body;
    const texts: { node: Text; box: DOMRect }[] = [];
    const walker = document.createTreeWalker(scope, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!(node instanceof Text) || !node.data.trim() || !element?.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
      if (element.closest(".sr-only, option, svg, legend.sr-only")) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      let above = false;
      const clip = { left: -Infinity, right: Infinity, top: -Infinity, bottom: Infinity };
      for (let at: Element | null = element; at && at !== scope; at = at.parentElement) {
        const style = getComputedStyle(at);
        above ||= style.position === "fixed" || style.position === "sticky";
        const box = at.getBoundingClientRect();
        if (style.overflowX !== "visible") Object.assign(clip, { left: Math.max(clip.left, box.left), right: Math.min(clip.right, box.right) });
        if (style.overflowY !== "visible") Object.assign(clip, { top: Math.max(clip.top, box.top), bottom: Math.min(clip.bottom, box.bottom) });
      }
      if (above) continue;
      for (const line of range.getClientRects()) {
        const [left, top, right, bottom] = [Math.max(line.left, clip.left), Math.max(line.top, clip.top), Math.min(line.right, clip.right), Math.min(line.bottom, clip.bottom)];
        if (right - left > 1 && bottom - top > 1) texts.push({ node, box: new DOMRect(left, top, right - left, bottom - top) });
      }
    }
    const found: string[] = [];
    for (const [i, a] of texts.entries())
      for (const b of texts.slice(i + 1)) {
        if (a.node === b.node) continue;
        const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
        const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
        // A line's box is higher than its letters.
        if (wide > 2 && high > 3) found.push(`“${a.node.data.trim().slice(0, 30)}” lies over “${b.node.data.trim().slice(0, 30)}”`);
      }
    return found.slice(0, 10);
  });
}

/** Tabs once around: what the keyboard doesn't reach, and what doesn't show that it has the focus. */
export async function byKeyboard(page: Page): Promise<string[]> {
  const wanted = await page.evaluate(() => {
    const scope = document.querySelector("[role=dialog], [role=menu]") ?? document.body;
    const actions = [...scope.querySelectorAll<HTMLElement>("a[href], button, input, select, textarea, summary, [role=button], [role=switch]")].filter(
      (element) => element.checkVisibility({ visibilityProperty: true }) && !element.matches(":disabled, [type=hidden]") && !element.closest("[inert], [role=menu]"),
    );
    // Tabs, radios of one group and the rows of the history are one stop, with arrows between them.
    const stops = actions.filter((element) => !element.matches("[role=tab][aria-selected=false], [type=radio]:not(:checked), [aria-label=History] [tabindex='-1']"));
    stops.forEach((element, n) => (element.dataset.stop = String(n)));
    if (document.activeElement instanceof HTMLElement && scope === document.body) document.activeElement.blur();
    return stops.length;
  });
  const problems = new Set<string>();
  const reached = new Set<string>();
  for (let n = 0; n < wanted * 2 + 40 && reached.size < wanted; n++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const element = document.activeElement;
      if (!(element instanceof HTMLElement) || element === document.body) return null;
      const style = getComputedStyle(element);
      const box = element.getBoundingClientRect();
      const seen = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
      return { stop: element.dataset.stop, marked: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0, seen, name: `${element.tagName.toLowerCase()} “${(element.getAttribute("aria-label") ?? element.innerText).slice(0, 40)}”` };
    });
    if (!at) continue;
    if (at.stop !== undefined) reached.add(at.stop);
    if (!at.marked) problems.add(`${at.name} doesn't show its focus`);
    if (!at.seen) problems.add(`${at.name} has the focus outside of the window`);
  }
  const left = await page.evaluate(
    (had) => [...document.querySelectorAll<HTMLElement>("[data-stop]")].filter((element) => !had.includes(element.dataset.stop ?? "")).map((element) => `Tab doesn't reach ${element.outerHTML.slice(0, 140)}`),
    [...reached],
  );
  return [...problems, ...left];
}
