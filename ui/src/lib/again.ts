// Builds once more what was built: at once where all of its inputs are known, else in the form, which says what isn't.
import { router } from "../frame/router.svelte";
import { failure, useHost } from "../host/host";
import { toasts } from "./live.svelte";

export async function again(ref: string): Promise<void> {
  try {
    const { request, missing, different } = await useHost().rebuild(ref);
    if (missing.length || different.length) router.go("new", ref);
    else router.go("build", await useHost().startBuild(request));
  } catch (error) {
    toasts.fail(failure(error));
  }
}
