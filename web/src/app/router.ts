/**
 * Addresses of the page: what follows the `#`, so that the service answers one document only.
 * `#/runs?status=running` is a path with a query, `#/runs/rk_…` a path with an id.
 */
import { useMemo, useSyncExternalStore } from "react";

export interface Place {
  /** The parts of the path, decoded: `["runs", "rk_…"]`. */
  readonly parts: readonly string[];
  readonly query: URLSearchParams;
}

export function placeOf(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#?\/?/, "").split("?", 2);
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a place, for a link. */
export function address(parts: readonly string[], query?: URLSearchParams): string {
  const text = query?.toString() ?? "";
  return `#/${parts.map(encodeURIComponent).join("/")}${text && `?${text}`}`;
}

/** Go somewhere; `replace` leaves no step to go back to. */
export function go(target: string, { replace = false } = {}): void {
  if (replace) {
    history.replaceState(null, "", target);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = target;
  }
}

export function usePlace(): Place {
  const hash = useSyncExternalStore(subscribe, () => location.hash);
  return useMemo(() => placeOf(hash), [hash]);
}

function subscribe(listener: () => void): () => void {
  window.addEventListener("hashchange", listener);
  return () => window.removeEventListener("hashchange", listener);
}
