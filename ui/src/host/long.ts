// Names and messages as long as machines and strangers make them: what a screen has to bear. For the mock alone.

const NAME = "-whose-name-a-machine-made-and-that-nobody-ever-thought-of-shortening";
const IMAGE = "registry.eu-central-1.internal.example.com:5000/platform-engineering/payments/checkout-and-settlement/";
const PROSE = " It goes on: the proxy at http://proxy.internal.example.com:3128/a/path/without/a/single/space/to/break/at/which/is/what/they/look/like answered, with words of its own, that it wouldn’t.";

const NAMES = new Set(["name", "project", "target", "host", "mountId", "context", "base"]);
const IMAGES = new Set(["tags", "names"]);
const TEXTS = new Set(["error", "reason", "detail", "fix", "acceleratorReason", "notices"]);

/** The same value with its names and texts made long. */
export function stretch<T>(value: T, key = ""): T {
  // Theirs are Kiln's own.
  if (key === "sockets") return value;
  if (typeof value === "string") {
    const long = !value ? value : NAMES.has(key) ? value + NAME : IMAGES.has(key) ? `${IMAGE}${value.split("/").at(-1)}` : TEXTS.has(key) ? value + PROSE : key === "description" ? `${value} && echo ${NAME}${NAME}` : value;
    return long as T;
  }
  if (Array.isArray(value)) return value.map((item: unknown) => stretch(item, key)) as T;
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, stretch(item as unknown, name)])) as T;
  return value;
}
