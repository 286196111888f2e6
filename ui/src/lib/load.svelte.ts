// A call to the host as a screen shows it: under way, failed, or its answer; and again on demand.
import { failure } from "../host/host";
import type { HostFailure } from "../host/types";

export class Load<T> {
  value: T | undefined = $state.raw(undefined);
  error: HostFailure | undefined = $state.raw(undefined);
  busy = $state(false);
  private turn = 0;

  constructor(private readonly call: () => Promise<T>) {}

  async run(): Promise<void> {
    const turn = ++this.turn;
    this.busy = true;
    try {
      const value = await this.call();
      // A later run's answer isn't overwritten by an earlier one's.
      if (turn !== this.turn) return;
      this.value = value;
      this.error = undefined;
    } catch (error) {
      if (turn === this.turn) this.error = failure(error);
    } finally {
      if (turn === this.turn) this.busy = false;
    }
  }
}
