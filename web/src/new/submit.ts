/** Requests for runs as they are sent: checked first, then submitted once. */
import { api, bodyOf, send, type Job, type Schemas } from "../api/client";
import { valueAt, type Body } from "../form/pointer";
import { COLLECTIONS, type Kind } from "./request";

export interface Checked {
  readonly dry: Schemas["DryRun"];
  readonly estimate: Schemas["Estimate"] | null;
}

/** All that the submission would do, without doing it, and what the run would cost. */
export async function check(kind: Kind, body: Body): Promise<Checked> {
  const path = `./v1/${COLLECTIONS[kind]}?validate_only=true`;
  const dry = (await (await post(path, body)).json()) as Schemas["DryRun"];
  return { dry, estimate: dry.estimate ?? (kind === "comparison" ? await estimateOfArms(body) : null) };
}

/** One run by how many layers it trains: a dry run of a comparison has no estimate of its own. */
async function estimateOfArms(body: Body): Promise<Schemas["Estimate"]> {
  const arms = body["arms"];
  const numbers = (Array.isArray(arms) ? arms : []).map((arm) => valueAt(arm, "/selection/k"));
  const k = [...new Set(numbers.filter((each) => typeof each === "number"))].sort((a, b) => a - b);
  const { model, dataset, training } = body;
  const asked = { model, dataset, ...(training ? { training } : {}), ...(k.length ? { k } : {}) };
  return bodyOf(api.POST("/v1/estimates", { body: asked as Schemas["EstimateSpec"] }));
}

/** Submits; sent again under the same key, it is the same job. */
export async function submit(kind: Kind, body: Body, key: string): Promise<Job> {
  const answer = await post(`./v1/${COLLECTIONS[kind]}`, body, { "Idempotency-Key": key });
  return (await answer.json()) as Job;
}

function post(path: string, body: Body, headers: Record<string, string> = {}): Promise<Response> {
  const type = { "Content-Type": "application/json" };
  const init = { method: "POST", headers: { ...type, ...headers }, body: JSON.stringify(body) };
  return send(new Request(path, init));
}
