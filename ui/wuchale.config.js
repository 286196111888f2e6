// How the strings of the screens become a catalogue; docs/testing.md says how to add a language.
import { adapter as svelte } from "@wuchale/svelte";
import { defineConfig, pofile } from "wuchale";
import { adapter as script } from "wuchale/adapter-vanilla";

/** The pseudo-locale's test brings a folder of its own, so that it leaves the sources as they are. */
export const localesDir = process.env.KILN_LOCALES_DIR ?? "src/locales";
export const locales = process.env.KILN_LOCALES_DIR ? ["en", "en-XA"] : ["en"];

const QUIET = new Set(["class", "style", "href", "id", "for", "d", "points", "viewBox", "transform", "autocomplete", "type", "role", "command"]);
/** Names of keys and files, commands, addresses, platforms, classes, styles and paths of drawings. */
const NOT_WORDS = /^(Arrow\w+|Enter|Escape|Dockerfile|Kiln|docker .*|kiln .*|RUN .*|linux\/.*|\/.*|M#.*|\w+:\/\/\S*)$|(^| )(bg|text|border)-[a-z]|^flex |^left: |^color-mix\(/;

/** In markup whatever has letters; elsewhere what begins like a sentence or has several words. */
function isMessage({ msgStr, plural, details }) {
  const text = msgStr.join(" ");
  if (plural) return "message";
  if (!/\p{L}/u.test(text) || QUIET.has(details.attribute) || ["code", "pre", "kbd", "style"].includes(details.element)) return false;
  if (details.scope === "markup" || (details.element === "Pairs" && details.attribute === "what")) return "message";
  if (NOT_WORDS.test(text) || /^[A-Z_]+$/.test(text) || details.call?.startsWith("console.")) return false;
  return /^\p{Lu}/u.test(text) || /\p{L}.* | .*\p{L}/u.test(text) ? "message" : false;
}

// The language is chosen before the first component is made, and stays: what is read once may be kept.
const runtime = {
  initReactive: ({ funcName, ctx }) => (funcName == null || ctx?.module ? false : null),
  useReactive: false,
  plain: { wrapInit: (expression) => expression, wrapUse: (expression) => expression },
  reactive: { wrapInit: (expression) => expression, wrapUse: (expression) => expression },
};
const shared = {
  heuristic: isMessage,
  patterns: [{ name: "count", args: ["other", "message", "pluralFunc"] }],
  loader: "custom",
  bundleLoad: true,
  runtime,
};

/** Looks the catalogue up once in a module, where constants may use it too, and not in each function. */
function once(adapter) {
  const transform = async (context) => {
    const { msgs, output } = await adapter.transform(context);
    return { msgs, output: (header) => output(`${header}\nconst _w_runtime_ = ${context.expr.plain};\n`) };
  };
  return { ...adapter, transform };
}

export default defineConfig({
  locales,
  localesDir,
  logLevel: "warn",
  adapters: {
    screens: svelte({ ...shared, storage: pofile({ dir: `${localesDir}/screens` }), files: ["src/**/*.svelte"] }),
    code: once(script({ ...shared, runtime: { ...runtime, initReactive: () => null }, storage: pofile({ dir: `${localesDir}/code` }), files: { include: "src/**/*.ts", ignore: ["src/**/*.test.ts", "src/**/*.d.ts", "src/host/**", "src/locales/**", "src/main.ts"] } })),
  },
});
