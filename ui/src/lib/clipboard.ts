import { toasts } from "./live.svelte";

export async function copy(text: string, what = "Copied"): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    toasts.say(what);
  } catch {
    toasts.say("The clipboard isn’t available");
  }
}
