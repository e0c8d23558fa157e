/** The API key of this tab. It is kept in sessionStorage alone, and goes with the tab. */
import type { ProblemDocument } from "./problem";
import { Store } from "./store";

const SLOT = "layer-surgeon-api-key";

export interface Session {
  readonly key: string | null;
  /** Why the service wants another key; null while it takes the present one. */
  readonly refusal: ProblemDocument | null;
}

export const session = new Store<Session>({ key: sessionStorage.getItem(SLOT), refusal: null });

export function takeKey(key: string): void {
  sessionStorage.setItem(SLOT, key);
  session.set({ key, refusal: null });
}

export function forgetKey(): void {
  sessionStorage.removeItem(SLOT);
  session.set({ key: null, refusal: null });
}

/** The service has answered 401 to a request that was sent with this key. */
export function refuseKey(sent: string | null, refusal: ProblemDocument): void {
  if (session.get().key === sent) session.set({ key: sent, refusal });
}
