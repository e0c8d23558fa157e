/** Errors as the service words them (RFC 9457). */
import type { components } from "./schema";

export type ProblemDocument = Pick<components["schemas"]["ProblemDetails"], "title" | "detail"> &
  Partial<components["schemas"]["ProblemDetails"]>;

export class Problem extends Error {
  readonly document: ProblemDocument;

  constructor(document: ProblemDocument) {
    super(document.detail);
    this.name = "Problem";
    this.document = document;
  }
}

/** The service could not be reached; the banner says so, and requests are sent again. */
export class ConnectionLost extends Error {}

/** The problem that a failed answer holds, or one that says what came instead. */
export async function problemOf(response: Response): Promise<ProblemDocument> {
  const text = await response.text();
  try {
    const document: unknown = JSON.parse(text);
    if (typeof document === "object" && document && "detail" in document && "title" in document) {
      return document as ProblemDocument;
    }
  } catch {
    // Not JSON: something between this page and the service has answered.
  }
  return {
    title: `Answer ${response.status}`,
    status: response.status,
    detail: text.slice(0, 300) || response.statusText || "The answer is empty.",
  };
}

/** What to show of anything that was thrown. */
export function describe(error: unknown): ProblemDocument {
  if (error instanceof Problem) return error.document;
  if (error instanceof ConnectionLost) {
    return { title: "No connection", detail: "The service does not answer. Try again." };
  }
  return { title: "This page has failed", detail: String(error) };
}
