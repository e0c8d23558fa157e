/** Every request to the service goes through here: typed by its OpenAPI document, with the key. */
import createClient from "openapi-fetch";
import { noteAnswer, noteSilence } from "./connection";
import { ConnectionLost, Problem, problemOf } from "./problem";
import type { components, paths } from "./schema";
import { refuseKey, session } from "./session";

const GATEWAY_ERRORS = new Set([502, 503, 504]);

export type Schemas = components["schemas"];
export type Job = Schemas["JobView"];

/** Sends a request with the key of this tab. Throws ConnectionLost and Problem. */
export async function send(request: Request): Promise<Response> {
  const { key } = session.get();
  if (key) request.headers.set("Authorization", `Bearer ${key}`);
  let response: Response;
  try {
    // eslint-disable-next-line no-restricted-globals
    response = await fetch(request);
  } catch (error) {
    if (request.signal.aborted) throw error;
    noteSilence();
    throw new ConnectionLost();
  }
  if (isFromBetween(response)) noteSilence();
  else noteAnswer();
  if (response.ok || response.status === 304) return response;
  const problem = await problemOf(response);
  if (response.status === 401) refuseKey(key, problem);
  throw new Problem(problem);
}

/** Whether something between this page and the service has answered: the service names its problem. */
function isFromBetween({ status, headers }: Response): boolean {
  return GATEWAY_ERRORS.has(status) && !headers.get("Content-Type")?.startsWith("application/problem+json");
}

/** The typed client, such as `api.GET("/v1/jobs/{job_id}", …)`. What fails is thrown. */
export const api = createClient<paths>({ baseUrl: ".", cache: "no-store", fetch: send });

/** The body of a successful answer. */
export async function bodyOf<T>(call: Promise<{ data?: T }>): Promise<T> {
  return (await call).data as T;
}

/** A key under which a repeated POST has its effect only once; also where there is no HTTPS. */
export function idempotencyKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
