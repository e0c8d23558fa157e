import { Store } from "../api/store";

export interface ShownSecret {
  /** What it is: `the key ci`. */
  readonly what: string;
  readonly secret: string;
}

/**
 * A secret that the service shows once. It lives outside of the page that asked for it, which is
 * drawn anew when the first key of a service becomes that of this tab.
 */
export const shownSecret = new Store<ShownSecret | null>(null);
