// The colours of terminal output, as spans. Only what SGR says is kept; other control sequences vanish, and
// a carriage return starts the line anew, as progress bars mean it.

export interface Span {
  text: string;
  /** Class names of the colours and weights; empty for plain text. */
  style: string;
}

const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

// eslint-disable-next-line no-control-regex
const SEQUENCE = /\x1b(?:\[([0-9;:]*)([A-Za-z])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-B]|[=>78cDEHM])/g;

interface Style {
  fg: string;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
}

const plain = (): Style => ({ fg: "", bold: false, dim: false, italic: false, underline: false });

/** Text as a terminal would show it, without any sequence. */
export function strip(line: string): string {
  return overwrite(line).replace(SEQUENCE, "");
}

function overwrite(line: string): string {
  const trimmed = line.endsWith("\r") ? line.slice(0, -1) : line;
  const at = trimmed.lastIndexOf("\r");
  return at < 0 ? trimmed : trimmed.slice(at + 1);
}

export function spans(line: string): Span[] {
  const text = overwrite(line);
  if (!text.includes("\x1b")) return text ? [{ text, style: "" }] : [];
  const out: Span[] = [];
  let style = plain();
  let last = 0;
  SEQUENCE.lastIndex = 0;
  for (let match = SEQUENCE.exec(text); match; match = SEQUENCE.exec(text)) {
    push(out, text.slice(last, match.index), style);
    last = match.index + match[0].length;
    if (match[2] === "m") style = apply(style, match[1] ?? "");
  }
  push(out, text.slice(last), style);
  return out;
}

function push(out: Span[], text: string, style: Style): void {
  if (!text) return;
  const names: string[] = [];
  if (style.fg) names.push(`ansi-${style.fg}`);
  if (style.bold) names.push("ansi-bold");
  if (style.dim) names.push("ansi-dim");
  if (style.italic) names.push("ansi-italic");
  if (style.underline) names.push("ansi-underline");
  out.push({ text, style: names.join(" ") });
}

function apply(before: Style, codes: string): Style {
  let style = { ...before };
  const list = (codes || "0").split(/[;:]/).map(Number);
  for (let i = 0; i < list.length; i++) {
    const code = list[i] ?? 0;
    if (code === 0) style = plain();
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.underline = false;
    else if (code >= 30 && code <= 37) style.fg = COLOURS[code - 30] ?? "";
    else if (code >= 90 && code <= 97) style.fg = COLOURS[code - 90] ?? "";
    else if (code === 39) style.fg = "";
    else if (code === 38 || code === 48) {
      const indexed = list[i + 1] === 5;
      const index = list[i + 2] ?? 0;
      if (code === 38) style.fg = indexed && index < 16 ? (COLOURS[index % 8] ?? "") : "";
      i += indexed ? 2 : 4;
    }
  }
  return style;
}
