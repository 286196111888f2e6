// Where the window is: a path and its parameters, kept in the address so that back and forward work, and in
// storage so that the next start opens where the last one ended.

export interface Place {
  screen: string;
  /** What the screen shows in particular, such as a build's reference. */
  id: string;
  params: URLSearchParams;
}

const LAST = "kiln.place";

export function parse(hash: string): Place {
  const text = hash.replace(/^#\/?/, "");
  const [path = "", query = ""] = text.split("?");
  const [screen = "", ...rest] = path.split("/");
  return { screen: screen || "builds", id: decodeURIComponent(rest.join("/")), params: new URLSearchParams(query) };
}

export function href(screen: string, id = "", params: Record<string, string> = {}): string {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== "")).toString();
  return `#/${screen}${id ? `/${encodeURIComponent(id)}` : ""}${query ? `?${query}` : ""}`;
}

class Router {
  place: Place = $state.raw(parse(""));

  start(): () => void {
    if (!location.hash) {
      const last = localStorage.getItem(LAST);
      if (last) history.replaceState(null, "", last);
    }
    const read = (): void => {
      this.place = parse(location.hash);
      localStorage.setItem(LAST, location.hash);
    };
    read();
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }

  go(screen: string, id = "", params: Record<string, string> = {}): void {
    location.hash = href(screen, id, params);
  }

  /** Changes parameters of this place without a step of history. */
  set(params: Record<string, string>): void {
    const all = { ...Object.fromEntries(this.place.params), ...params };
    const target = href(this.place.screen, this.place.id, all);
    history.replaceState(null, "", target);
    this.place = parse(target);
    localStorage.setItem(LAST, target);
  }
}

export const router = new Router();
