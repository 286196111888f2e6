// Pulls and pushes that go on. They are the window's, not the screen's: who looks at builds meanwhile finds them again.
import { useHost, type Unsubscribe } from "../../host/host";
import type { Transfer } from "../../host/types";
import { shortImage } from "../../lib/format";
import { toasts } from "../../lib/live.svelte";

export type TransferKind = "pull" | "push";

export class RunningTransfer {
  now: Transfer = $state.raw({ blobs: [], finished: "", error: "", hint: "" });
  stop: Unsubscribe = () => {};

  constructor(readonly kind: TransferKind, readonly name: string) {}

  layers = $derived(this.now.blobs.filter((blob) => blob.description === "layer"));
  done = $derived(this.layers.filter((blob) => blob.status === "done" || blob.status === "exists").length);
  /** Of all blobs, also of those that are there already. */
  bytes = $derived(this.now.blobs.reduce((sum, blob) => sum + blob.current, 0));
  total = $derived(this.now.blobs.reduce((sum, blob) => sum + blob.total, 0));
}

class Transfers {
  running: RunningTransfer[] = $state.raw([]);
  /** Grows with each that brought something. */
  brought = $state(0);

  start(kind: TransferKind, name: string): void {
    if (this.find(kind, name)) return;
    const host = useHost();
    const transfer = new RunningTransfer(kind, name);
    this.running = [...this.running, transfer];
    transfer.stop = (kind === "pull" ? host.pullImage : host.pushImage)(name, (now) => {
      transfer.now = now;
      if (now.error) {
        this.forget(transfer);
        toasts.fail({ kind: "internal", message: now.error, hint: now.hint });
      } else if (now.finished) {
        this.forget(transfer);
        toasts.say(kind === "pull" ? `Pulled ${shortImage(name)}` : `Pushed ${shortImage(name)}`);
        this.brought++;
      }
    });
  }

  find(kind: TransferKind, name: string): RunningTransfer | undefined {
    return this.running.find((transfer) => transfer.kind === kind && transfer.name === name);
  }

  cancel(transfer: RunningTransfer): void {
    transfer.stop();
    this.forget(transfer);
    const name = shortImage(transfer.name);
    toasts.say(transfer.kind === "pull" ? `Pull of ${name} cancelled` : `Push of ${name} cancelled`);
  }

  private forget(transfer: RunningTransfer): void {
    this.running = this.running.filter((other) => other !== transfer);
  }
}

export const transfers = new Transfers();
