/** Whether the service answers. While it does not, it is asked again until it does. */
import { Store } from "./store";

const PROBE_MILLISECONDS = 2000;

export const connection = new Store<"fine" | "lost">("fine");

export function noteAnswer(): void {
  if (connection.get() === "lost") connection.set("fine");
}

export function noteSilence(): void {
  if (connection.get() === "lost") return;
  connection.set("lost");
  probeLater();
}

function probeLater(): void {
  setTimeout(() => {
    void probe();
  }, PROBE_MILLISECONDS);
}

async function probe(): Promise<void> {
  if (connection.get() === "fine") return;
  try {
    // Not through the client, which would note this silence, too.
    // eslint-disable-next-line no-restricted-globals
    const response = await fetch("./healthz", { cache: "no-store" });
    if (response.ok) return noteAnswer();
  } catch {
    // Still silent.
  }
  probeLater();
}
