// The calls themselves: how one fails, and the desktop's dialog.

/** Why a call failed: what kind of thing to do about it, what happened, what to do next. */
export interface HostFailure {
  kind: "unavailable" | "unsupported" | "user" | "internal";
  message: string;
  hint: string;
}

/** What the desktop's dialog is asked for. */
export interface Pick {
  what: "folder" | "file" | "save";
  title: string;
  /** Where it begins. */
  path: string;
  /** Endings of the files that are meant, without a dot. */
  kinds: string[];
}
