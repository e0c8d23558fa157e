/** Further files of the page, which are loaded when they are first needed. */
import { untilItAnswers } from "./connection";

const SLOT = "layer-surgeon-missed-file";

/**
 * Loads one. If it cannot be had, the service is away, or has another version with files of other
 * names: once it answers, the whole page is loaded anew, and is at the same address again. What is
 * missing then as well is an error.
 */
export async function further<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    const missed = String(error); // which names the file
    if (sessionStorage.getItem(SLOT) === missed) throw error;
    await untilItAnswers();
    sessionStorage.setItem(SLOT, missed);
    location.reload();
    return new Promise(() => undefined);
  }
}
