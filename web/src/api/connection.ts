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

/** Waits until the service answers: not at all, if it does. */
export async function untilItAnswers(): Promise<void> {
  if (await answers()) return;
  noteSilence();
  await new Promise<void>((resolve) => {
    const stop = connection.subscribe(() => {
      stop();
      resolve();
    });
  });
}

function probeLater(): void {
  setTimeout(() => {
    void probe();
  }, PROBE_MILLISECONDS);
}

async function probe(): Promise<void> {
  if (connection.get() === "fine") return;
  if (await answers()) noteAnswer();
  else probeLater();
}

async function answers(): Promise<boolean> {
  try {
    // Not through the client, which would note this silence, too.
    // eslint-disable-next-line no-restricted-globals
    return (await fetch("./healthz", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}
