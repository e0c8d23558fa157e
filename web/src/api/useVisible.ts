import { useSyncExternalStore } from "react";

/** Whether anyone can see the page: a hidden tab asks for nothing and holds no stream. */
export function useVisible(): boolean {
  return useSyncExternalStore(subscribe, () => !document.hidden);
}

function subscribe(listener: () => void): () => void {
  document.addEventListener("visibilitychange", listener);
  return () => document.removeEventListener("visibilitychange", listener);
}
